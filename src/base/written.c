/*
 * written.c
 *		Customers that sessions have written in Kapture themselves.
 *
 * kapture_update_customer() and UPDATEs of foreign tables change customers past the
 * attached tables.  The digests of these customers' rows may be wrong then.  So their ids
 * are noted in kapture_written, and the worker forgets the digests of these rows before it
 * uses any.  The session does not change the digests itself: that would hold up the worker
 * until the session's transaction ends.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"

#include "base/catalog.h"
#include "base/owner_sql.h"
#include "base/written.h"

/*
 * Notes that a customer of a server is about to be updated by this session; known to
 * the worker when the transaction commits.  Does nothing if no attached table has this
 * server, or if the transaction cannot write.
 */
void
kapture_written_note(const char *server, int64 customer_id)
{
	Oid			relid = kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT);
	Oid			types[2] = {NAMEOID, INT8OID};
	Datum		values[2];

	if (XactReadOnly || RecoveryInProgress() || !OidIsValid(relid) ||
		!OidIsValid(get_relname_relid("kapture_written", get_rel_namespace(relid))))
		return;
	values[0] = DirectFunctionCall1(namein, CStringGetDatum(server));
	values[1] = Int64GetDatum(customer_id);
	(void) kapture_own_execute("INSERT INTO @.kapture_written (server, customer_id)"
							   " SELECT $1, $2 WHERE EXISTS (SELECT FROM @.kapture_attachment WHERE server = $1)",
							   lengthof(types), types, values);
}
