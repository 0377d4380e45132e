#include "tokenizer/stub.h"
