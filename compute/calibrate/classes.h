/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Classes of rows that are alike: k-means (Lloyd, "Least squares quantization in PCM"; seeded by
 * Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding") on the rows' strongest
 * whitened KLT coefficients.
 */
#ifndef ISTHMUS_COMPUTE_CALIBRATE_CLASSES_H
#define ISTHMUS_COMPUTE_CALIBRATE_CLASSES_H

#include "codec/profile.h"
#include "compute/calibrate/gram.h"
#include "compute/team.h"

/* The dimensions in which rows of so many columns are told apart. */
uint32_t classes_dims(uint32_t cols);

/* Fill all of class_* for p->n_classes > 0 classes in p->class_dims = classes_dims() dimensions,
 * and class_of[n], each row's. The rows are centred on p->mean; those of weight 0 (others: 1) have
 * no say. Deterministic. 0, -ENOMEM, -EDOM. */
int classes_make(struct team *team, const struct gram_rows *rows, const float *weight,
                 struct codec_profile *p, uint16_t *class_of);

#endif
