#include "engine/stub.h"
