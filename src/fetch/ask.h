/*
 * ask.h
 *		Asks Kapture which customers have the phones and emails of rows.
 */
#ifndef KAPTURE_ASK_H
#define KAPTURE_ASK_H

#include "postgres.h"

#include "nodes/pg_list.h"

typedef struct KaptureSearch
{
	const char *phone;			/* NULL: not searched for */
	const char *email;
	void	   *item;			/* the caller's own */

	/* filled in */
	int64		by_phone;		/* customer with the phone; 0: nobody */
	int64		by_email;
} KaptureSearch;

extern void kapture_ask(const char *server, Oid userid, List *searches);
extern char *kapture_ask_conflict(const KaptureSearch *search);

#endif							/* KAPTURE_ASK_H */
