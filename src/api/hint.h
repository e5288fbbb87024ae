/*
 * hint.h
 *		What to do about a failure, in plain words.
 */
#ifndef KAPTURE_HINT_H
#define KAPTURE_HINT_H

extern const char *kapture_hint_find(const char *message, int status, const char *api);

#endif							/* KAPTURE_HINT_H */
