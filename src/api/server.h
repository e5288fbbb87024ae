/*
 * server.h
 *		Which servers are pulled from automatically.
 */
#ifndef KAPTURE_SERVER_H
#define KAPTURE_SERVER_H

#include "postgres.h"

#include "nodes/pg_list.h"

typedef struct KapturePullServer
{
	Oid			serverid;
	Oid			owner;			/* with whose key it is pulled */
	char	   *name;
} KapturePullServer;

extern List *kapture_pull_servers(void);

#endif							/* KAPTURE_SERVER_H */
