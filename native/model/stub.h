#pragma once
namespace gpt2::model {}
