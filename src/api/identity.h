/*
 * identity.h
 *		Is an answer about the customer that was asked about?
 */
#ifndef KAPTURE_IDENTITY_H
#define KAPTURE_IDENTITY_H

#include "postgres.h"

/* What a customer is known by; NULL: not given. */
typedef struct KaptureIdentity
{
	const char *name;
	const char *phone;
	const char *email;
} KaptureIdentity;

typedef enum KaptureMatch
{
	KAPTURE_MATCH_UNKNOWN,		/* they cannot be compared */
	KAPTURE_MATCH_YES,
	KAPTURE_MATCH_NO
} KaptureMatch;

extern KaptureMatch kapture_match_phones(const char *a, const char *b);
extern KaptureMatch kapture_match_emails(const char *a, const char *b);
extern const char *kapture_identity_conflict(const KaptureIdentity *sent,
											 const KaptureIdentity *repeated);

#endif							/* KAPTURE_IDENTITY_H */
