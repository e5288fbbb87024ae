/*
 * orphan.c
 *		kapture_acknowledge(): acknowledges that a customer's row is gone.
 *
 * kapture_row has such customers until somebody acknowledges them, or a row has the
 * customer again; see the view kapture_orphans.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "api/argument.h"
#include "base/owner_sql.h"
#include "base/version.h"

PG_FUNCTION_INFO_V1(kapture_acknowledge);

/*
 * kapture_acknowledge(server name, kapture_customer_id bigint) returns boolean
 *
 * Removes a customer from kapture_orphans.  Returns whether the customer was there.  For
 * owners of the table that had the row.  Errors: 22004 an argument is NULL.
 */
Datum
kapture_acknowledge(PG_FUNCTION_ARGS)
{
	Oid			types[3] = {NAMEOID, INT8OID, OIDOID};
	Datum		values[3];

	kapture_version_require();
	kapture_argument_check_null(fcinfo, 0, "server");
	kapture_argument_check_null(fcinfo, 1, "kapture_customer_id");
	values[0] = PG_GETARG_DATUM(0);
	values[1] = PG_GETARG_DATUM(1);
	values[2] = ObjectIdGetDatum(GetUserId());
	PG_RETURN_BOOL(kapture_own_execute("DELETE FROM @.kapture_row AS r USING @.kapture_attachment AS a, pg_class AS c"
									   " WHERE a.attachment_id = r.attachment_id AND a.server = $1 AND c.oid = a.relation"
									   " AND r.customer_id = $2 AND (r.gone_at IS NOT NULL OR r.left_at IS NOT NULL)"
									   " AND pg_has_role($3, c.relowner, 'USAGE')",
									   lengthof(types), types, values) > 0);
}
