/* SPDX-License-Identifier: Apache-2.0 */
/* SIGINT, SIGTERM and SIGHUP as something a loop looks at, so that it can clean up. */
#ifndef ISTHMUS_CONTROL_SIGNALS_H
#define ISTHMUS_CONTROL_SIGNALS_H

/* From now on they are remembered instead of ending the process, and interrupt what waits. Those
 * that were ignored stay so: a parent wanted that. SIGPIPE is ignored: a closed pipe shows when
 * writing. */
void signals_catch(void);

/* The last one that came; 0: none. */
int signals_caught(void);
void signals_forget(void);

#endif
