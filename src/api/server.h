/*
 * server.h
 *		What the options of servers say without a user mapping.
 */
#ifndef KAPTURE_SERVER_H
#define KAPTURE_SERVER_H

#include "postgres.h"

#include "nodes/pg_list.h"

typedef struct KapturePullServer
{
	Oid			serverid;
	Oid			owner;			/* role whose key pulls use */
	char	   *name;
} KapturePullServer;

extern List *kapture_pull_servers(void);
extern bool kapture_server_adds_by_upsert(const char *name);

#endif							/* KAPTURE_SERVER_H */
