/*
 * module_call.h
 *		Requests to other modules: their bodies and servers.
 */
#ifndef KAPTURE_MODULE_CALL_H
#define KAPTURE_MODULE_CALL_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/jsonb.h"

#include "api/option.h"

extern Jsonb *kapture_module_call_body(FunctionCallInfo fcinfo, int argno);
extern KaptureServer *kapture_module_call_server(const KaptureServer *server, const char *api, Jsonb *body);

#endif							/* KAPTURE_MODULE_CALL_H */
