/*
 * kept_ids.h
 *		Rows of tables without a column for ids, whose ids are in kapture_row.
 */
#ifndef KAPTURE_KEPT_IDS_H
#define KAPTURE_KEPT_IDS_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "base/catalog.h"

extern List *kapture_kept_rows(const KaptureAttachment *att, const int64 *customer_ids, int n);
extern int	kapture_kept_ids(const KaptureAttachment *att, int64 after, int limit, int64 *ids);

#endif							/* KAPTURE_KEPT_IDS_H */
