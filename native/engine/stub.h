#pragma once
namespace gpt2::engine {}
