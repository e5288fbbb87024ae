/*
 * hint.h
 *		What to do about a failure, in plain words.
 */
#ifndef KAPTURE_HINT_H
#define KAPTURE_HINT_H

#include "api/http.h"

extern const char *kapture_hint_tls_words(KaptureTlsFault fault);
extern const char *kapture_hint_tls(KaptureTlsFault fault);
extern char *kapture_hint_sentence(const char *hint);
extern const char *kapture_hint_find(const char *message, int status, const char *api);

#endif							/* KAPTURE_HINT_H */
