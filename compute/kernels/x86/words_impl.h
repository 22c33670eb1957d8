/* SPDX-License-Identifier: Apache-2.0 */
/* Of rows_impl.h's operations those on 16 lanes as integers, by v_pack_words of the instruction set.
 * No include guard: an ISA's file includes it once. */

ROWS_FN void v_store_words(int16_t *p, v16 a)
{
    __m256i w = _mm256_permute4x64_epi64(v_pack_words(a), 0xd8);
    w = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(w, 0xd8), 0xd8);
    _mm256_storeu_si256((__m256i *)p, w);
}

ROWS_FN void v_store_i8(int8_t *p, v16 a)
{
    __m256i w = _mm256_permute4x64_epi64(v_pack_words(a), 0xd8);
    _mm_storeu_si128((__m128i *)p,
                     _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}

ROWS_FN float v_neg_sums(int16_t neg[6], int32_t neg_all[4], v16 x, v16 y)
{
    const __m256i one = _mm256_set1_epi16(1);
    __m256i both = _mm256_packs_epi32(_mm256_madd_epi16(v_pack_words(x), one),
                                      _mm256_madd_epi16(v_pack_words(y), one));
    /* Pairs' sums by i / 2 % 2: four of x, then of y. */
    __m128i sum = _mm_add_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    sum = _mm_sub_epi16(_mm_setzero_si128(), _mm_add_epi16(sum, _mm_srli_epi64(sum, 32)));
    __m128i of_y = _mm_srli_si128(sum, 8), all = _mm_add_epi16(sum, of_y);
    sum = _mm_unpacklo_epi32(all, sum);
    _mm_storel_epi64((__m128i *)neg, sum);
    _mm_storeu_si32(neg + 4, of_y);
    all = _mm_madd_epi16(_mm_unpacklo_epi64(sum, of_y), _mm256_castsi256_si128(one));
    _mm_storeu_si128((__m128i *)neg_all, all);
    return 0.f - _mm_cvtss_f32(_mm_cvtepi32_ps(all));
}
