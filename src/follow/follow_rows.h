/*
 * follow_rows.h
 *		Finds the rows that a change of a followed table is about.
 */
#ifndef KAPTURE_FOLLOW_ROWS_H
#define KAPTURE_FOLLOW_ROWS_H

#include "postgres.h"

#include "base/catalog.h"

extern bool kapture_follow_resolve(KaptureAttachment *att, int nvalues);

#endif							/* KAPTURE_FOLLOW_ROWS_H */
