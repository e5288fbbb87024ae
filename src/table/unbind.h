/*
 * unbind.h
 *		What goes with a server that was dropped.
 */
#ifndef KAPTURE_UNBIND_H
#define KAPTURE_UNBIND_H

extern void kapture_unbind_dropped(void);

#endif							/* KAPTURE_UNBIND_H */
