/*
 * text.h
 *		Texts that others made: what is kept of them, and in which encoding.
 */
#ifndef KAPTURE_TEXT_H
#define KAPTURE_TEXT_H

#include "postgres.h"

extern char *kapture_text_cut(const char *text);
extern char *kapture_text_to_utf8(const char *text, size_t *len);

#endif							/* KAPTURE_TEXT_H */
