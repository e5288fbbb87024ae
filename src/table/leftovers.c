/*
 * leftovers.c
 *		Closes what users' code leaves open in worker and puller.
 *
 * The code of many owners runs in one process, often in one transaction.  PostgreSQL
 * takes a session for one user's, and asks for no rights where something is open already: whoever knows the
 * name of a cursor fetches from it, whoever guesses the number of a large object's
 * descriptor reads it, and connections of dblink are used by whoever has EXECUTE.
 * So these go with the code that has opened them, as settings, advisory locks and prepared
 * statements do (row_io.c, clock.c; a security-restricted operation has none of the last).
 *
 * What other extensions keep for a session is not known here.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "executor/spi.h"
#include "libpq/be-fsstubs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/portal.h"

#include "base/user_code.h"
#include "cluster/guard.h"
#include "table/leftovers.h"

/* Closes all cursors: we have none of our own while users' code runs. */
static void
leftovers_close_cursors(void)
{
	if (SPI_execute("SELECT name FROM pg_catalog.pg_cursor()", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not list cursors");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *name = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		Portal		portal = GetPortalByName(name);

		if (!PortalIsValid(portal))
			continue;
		/* some languages pin them until they are read to their end */
		if (portal->portalPinned)
			UnpinPortal(portal);
		PortalDrop(portal, false);
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Random numbers are not to be foretold by whoever has called setseed(), or has seen many. */
static void
leftovers_reseed(void)
{
	double		seed = pg_prng_double(&pg_global_prng_state) * 2 - 1;

	(void) OidFunctionCall1(F_SETSEED, Float8GetDatum(seed));
}

/*
 * kapture_leftovers_close
 *		Closes cursors and large objects that users' code has left, in the subtransaction
 *		that it ran in and within its time.
 *
 * To be called within SPI, when the outermost of that code has ended without an error; after
 * one, they go with the subtransaction.
 */
void
kapture_leftovers_close(void)
{
	if (!kapture_user_code_has_called())
		return;
	leftovers_close_cursors();
	/* the end of a transaction, as far as large objects are concerned: we have none */
	AtEOXact_LargeObject(true);
}

/* A function of dblink to be called, and whether for its named connections or the other one. */
typedef struct LeftoverConnections
{
	const char *schema;
	bool		named;
} LeftoverConnections;

static void
leftovers_do_disconnect(void *arg)
{
	const LeftoverConnections *connections = arg;
	const char *schema = quote_identifier(connections->schema);

	SPI_connect();
	(void) SPI_execute(connections->named ?
					   psprintf("SELECT %s.dblink_disconnect(c) FROM pg_catalog.unnest(%s.dblink_get_connections()) AS c", schema, schema) :
					   psprintf("SELECT %s.dblink_disconnect()", schema), false, 0);
	SPI_finish();
}

/*
 * kapture_leftovers_forget
 *		Closes dblink's connections that users' code has left, and makes random numbers start
 *		anew, whichever way that code has ended: these outlive its subtransaction.
 *
 * Raises no error.
 */
void
kapture_leftovers_forget(void)
{
	Oid			namespace;
	LeftoverConnections connections = {NULL, false};

	if (!kapture_user_code_take_called(&namespace))
		return;
	leftovers_reseed();
	if (!OidIsValid(namespace) || (connections.schema = get_namespace_name(namespace)) == NULL)
		return;
	/* that there is no unnamed one is an error */
	(void) kapture_guard_step(leftovers_do_disconnect, &connections);
	connections.named = true;
	(void) kapture_guard_step(leftovers_do_disconnect, &connections);
}
