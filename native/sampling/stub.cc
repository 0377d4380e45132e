#include "sampling/stub.h"
