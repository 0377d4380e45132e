#pragma once
namespace gpt2::tokenizer {}
