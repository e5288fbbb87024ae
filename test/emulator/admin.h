/*
 * admin.h
 *		What tests ask of the emulator itself, under /_emulator/.
 */
#ifndef ADMIN_H
#define ADMIN_H

#include <stddef.h>

#include "answer.h"

extern void admin_perform(const char *what, const char *since, const char *id,
						  const char *body, size_t len, Reply *reply);

#endif
