/*
 * text.h
 *		Cuts texts of others to a length that can be kept, and changes their encoding.
 */
#ifndef KAPTURE_TEXT_H
#define KAPTURE_TEXT_H

#include "postgres.h"

extern char *kapture_text_cut(const char *text);
extern char *kapture_text_to_utf8(const char *text, size_t *len);

#endif							/* KAPTURE_TEXT_H */
