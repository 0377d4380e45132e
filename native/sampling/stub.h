#pragma once
namespace gpt2::sampling {}
