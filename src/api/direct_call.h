/*
 * direct_call.h
 *		One call of the Kapture API, its answer as jsonb.
 */
#ifndef KAPTURE_DIRECT_CALL_H
#define KAPTURE_DIRECT_CALL_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "api/option.h"

extern Jsonb *kapture_call_post(const KaptureServer *server, KaptureApi api, const char *text, Jsonb *customer);

#endif							/* KAPTURE_DIRECT_CALL_H */
