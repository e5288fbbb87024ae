/*
 * row_key.h
 *		The key of a row as capture notes it, from whatever text users give for it.
 */
#ifndef KAPTURE_ROW_KEY_H
#define KAPTURE_ROW_KEY_H

#include "postgres.h"

#include "base/catalog.h"

extern char *kapture_row_key(KaptureAttachment *att, const char *row_key);

#endif							/* KAPTURE_ROW_KEY_H */
