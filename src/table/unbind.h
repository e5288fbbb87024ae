/*
 * unbind.h
 *		Ends what was kept for servers that were dropped.
 */
#ifndef KAPTURE_UNBIND_H
#define KAPTURE_UNBIND_H

extern void kapture_unbind_dropped(void);

#endif							/* KAPTURE_UNBIND_H */
