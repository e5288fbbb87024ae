/*
 * round.h
 *		Rows of a table that are read and asked for together.
 */
#ifndef KAPTURE_ROUND_H
#define KAPTURE_ROUND_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "base/catalog.h"

/* Which rows to read, and how to make items of them. */
typedef struct KaptureRound
{
	KaptureAttachment *att;
	bool		without_id;		/* only rows that have no id */
	const char *condition;		/* only rows for which it holds; NULL: all */
	int			most;			/* rows at which to stop reading */

	/* reads the rows with these keys (char *), as items that have a KaptureRow each */
	List	   *(*read) (void *arg, List *keys);
	void	   *arg;
	Size		row;			/* offset of the KaptureRow in an item */
} KaptureRound;

extern List *kapture_round_next(const KaptureRound *round, const char **after, bool *more);

#endif							/* KAPTURE_ROUND_H */
