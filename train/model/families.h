/* families: names the kinds of models whose towers this program does not have, for messages. */
#pragma once
#include "kernels/base.h"

/* The family that a field of a configuration belongs to, in words ("ConvNeXt image towers"). value:
 * the field's, if it is a string. NULL: no known family. */
const char *family_of(const char *field, const char *value);
