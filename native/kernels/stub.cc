#include "kernels/stub.h"
