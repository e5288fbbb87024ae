/*
 * check_key.h
 *		Does a server accept the key of an API, and answer as Kapture does?
 */
#ifndef KAPTURE_CHECK_KEY_H
#define KAPTURE_CHECK_KEY_H

#include "postgres.h"

#include "api/http.h"
#include "api/option.h"

extern char *kapture_check_key_body(const KaptureServer *server, KaptureApi api, size_t *len);
extern bool kapture_check_key_judge(KaptureApi api, const KaptureHttpAnswer *answer,
									const char **detail, const char **hint);

#endif							/* KAPTURE_CHECK_KEY_H */
