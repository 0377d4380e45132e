#include "model/stub.h"
