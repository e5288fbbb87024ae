/*
 * restore.c
 *		Is a dump being restored?
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "utils/guc.h"

#include "base/restore.h"

/*
 * Tells whether this session restores a dump, in which servers are created before the
 * tables are filled, also the table that says whose database this was.  The scripts
 * of pg_dump and the sessions of pg_restore have in common that no name is found
 * without its schema and bodies of functions are not checked.  Anybody can make a
 * session look like that, so no protection may rely on this.
 */
bool
kapture_is_restoring(void)
{
	return !check_function_bodies && namespace_search_path[0] == '\0';
}
