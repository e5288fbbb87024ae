/*
 * complaint.h
 *		The errors about requests that did not get the answer they wanted.
 */
#ifndef KAPTURE_COMPLAINT_H
#define KAPTURE_COMPLAINT_H

#include "postgres.h"

#include "http.h"
#include "message.h"
#include "option.h"

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
extern void kapture_complaint_altered(const char *server, const int64 *ids, int n);

#endif							/* KAPTURE_COMPLAINT_H */
