/*
 * text.h
 *		What is kept of texts that others made.
 */
#ifndef KAPTURE_TEXT_H
#define KAPTURE_TEXT_H

#include "postgres.h"

extern char *kapture_text_cut(const char *text);

#endif							/* KAPTURE_TEXT_H */
