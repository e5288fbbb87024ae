/*
 * error.h
 *		The errors about requests that did not get the answer they wanted.
 */
#ifndef KAPTURE_ERROR_H
#define KAPTURE_ERROR_H

#include "postgres.h"

#include "api/http.h"
#include "api/option.h"
#include "api/reply.h"

extern char *kapture_complaint_in_words(const KaptureHttpAnswer *answer);
extern void kapture_complaint_no_answer(const KaptureServer *server,
										KaptureApi api,
										const KaptureHttpAnswer *answer);
extern void kapture_complaint_not_json(const KaptureServer *server,
									   KaptureApi api,
									   const KaptureHttpAnswer *answer,
									   const char *why);
extern void kapture_complaint_failed(const KaptureServer *server,
									 KaptureApi api, int status,
									 const KaptureReply *reply);
extern void kapture_complaint_nameless(const char *server, int n);
extern void kapture_complaint_altered(const char *server, const int64 *ids, int n);

#endif							/* KAPTURE_ERROR_H */
