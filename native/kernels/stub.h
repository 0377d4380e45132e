#pragma once
namespace gpt2::kernels {}
