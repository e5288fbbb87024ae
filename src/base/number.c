/*
 * number.c
 *		Numbers for new entries of the extension's tables.
 *
 * Members of pg_write_all_data may set any sequence, and sequences have no policies.  So
 * none of these numbers is taken on a sequence's word: a number that is used twice would
 * fail the statements of others, mix up rows in the worker, or show a table's owner what
 * became of the rows of another table.
 */
#include "postgres.h"

#include "catalog/dependency.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "common/pg_prng.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/lock.h"
#include "base/number.h"
#include "base/owner_sql.h"

PG_FUNCTION_INFO_V1(kapture_next_number);

/* Low bits that tell processes apart; the others have the time in microseconds, until 2071. */
#define NUMBER_PROCESS_BITS	12

/*
 * Returns a number that no other call returns, in this process or in another one.  Later numbers are
 * greater, except that those of two processes may be in any order within a microsecond.
 */
int64
kapture_number_next(void)
{
	static int64 last = 0;		/* in microseconds */

	last = Max(last + 1, (int64) GetCurrentTimestamp());
	return (last << NUMBER_PROCESS_BITS) | (MyProcNumber & ((1 << NUMBER_PROCESS_BITS) - 1));
}

/*
 * kapture_next_number() returns bigint
 *
 * For the defaults of columns.
 */
Datum
kapture_next_number(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(kapture_number_next());
}

/*
 * Returns a small number for a new entry of one of the extension's tables: the next one of the table's
 * sequence or, if that has been set back, any number that is free.  A number is not free if the query
 * "is_used" returns true for it ($1), or if another transaction is about to use it: nobody waits for
 * that transaction.  If "negative", the entry is known by the number below zero.
 */
int32
kapture_number_take(Oid relid, const char *is_used, bool negative)
{
	Oid			types[1] = {INT4OID};
	int32		number = (int32) nextval_internal(linitial_oid(getOwnedSequences(relid)), false);

	for (;;)
	{
		Datum		values[1] = {Int32GetDatum(number)};

		CHECK_FOR_INTERRUPTS();
		if (number > 0 && kapture_lock_attachment(negative ? -number : number, ExclusiveLock, false) &&
			strcmp(kapture_own_text(is_used, lengthof(types), types, values), "f") == 0)
			return number;
		number = (int32) (pg_prng_uint32(&pg_global_prng_state) & PG_INT32_MAX);
	}
}
