/*
 * lookup.h
 *		Finds rows of attached tables by the customers that they have.
 */
#ifndef KAPTURE_LOOKUP_H
#define KAPTURE_LOOKUP_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "base/catalog.h"

extern List *kapture_lookup_rows(KaptureAttachment *att, const int64 *customer_ids, int n);

#endif							/* KAPTURE_LOOKUP_H */
