/* exif: the orientation that a camera recorded in a picture's file. */
#pragma once
#include "data/image/image.h"

/* The tag Orientation of a JPEG, PNG or WebP file: 1 … 8; 1 (as stored) if there is none or it is
 * damaged. Source: Exif 2.3 (CIPA DC-008), section 4.6.4. */
int exif_orientation(const uint8_t *bytes, size_t size);
/* Returns true for those that exchange width and height. */
bool exif_turns(int orientation);
/* Turns the decoded picture as Pillow's ImageOps.exif_transpose does. */
void exif_orient(Image *img, int orientation);
