/*
 * unbind.h
 *		Ends what was kept for servers that were dropped.
 */
#ifndef KAPTURE_UNBIND_H
#define KAPTURE_UNBIND_H

#include "postgres.h"

#include "nodes/pg_list.h"

/* A server that was dropped. */
typedef struct KaptureUnboundServer
{
	Oid			serverid;
	NameData	name;
} KaptureUnboundServer;

extern KaptureUnboundServer *kapture_unbind_server(Oid serverid);
extern void kapture_unbind_dropped(List *servers);

#endif							/* KAPTURE_UNBIND_H */
