/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenBLAS 0.3.21, built without threads of its own, takes scratch memory from a table of slots
 * without holding its lock: two callers at once can be given the same slot, and silently spoil each
 * other's products. The linker puts this function in the place of the one that hands out slots
 * (-Wl,--wrap), for one caller at a time. Giving one back is a single store, and safe.
 */
#include <pthread.h>

void *__real_blas_memory_alloc(int procpos);
void *__wrap_blas_memory_alloc(int procpos);

void *__wrap_blas_memory_alloc(int procpos)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

    pthread_mutex_lock(&lock);
    void *memory = __real_blas_memory_alloc(procpos);
    pthread_mutex_unlock(&lock);
    return memory;
}
