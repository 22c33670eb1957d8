/* SPDX-License-Identifier: Apache-2.0 */
/* Circular doubly linked list, intrusive; the head is a node. */
#ifndef ISTHMUS_DATAPLANE_LINK_LIST_H
#define ISTHMUS_DATAPLANE_LINK_LIST_H

#include <stdbool.h>

struct list_node {
    struct list_node *prev, *next;
};

static inline void list_init(struct list_node *head)
{
    head->prev = head->next = head;
}

static inline bool list_empty(const struct list_node *head)
{
    return head->next == head;
}

static inline void list_append(struct list_node *head, struct list_node *n)
{
    n->prev = head->prev;
    n->next = head;
    head->prev->next = n;
    head->prev = n;
}

static inline void list_remove(struct list_node *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
}

#endif
