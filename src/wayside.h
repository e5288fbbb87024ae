/*
 * wayside.h
 *		Makes workers step aside for commands that need their database, and
 *		tells them of commands that concern them.
 */
#ifndef KAPTURE_WAYSIDE_H
#define KAPTURE_WAYSIDE_H

extern void kapture_wayside_install(void);

#endif							/* KAPTURE_WAYSIDE_H */
