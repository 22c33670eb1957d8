/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/secure/aead.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>

#ifdef HAVE_IPSEC_MB
#include <dlfcn.h>
#include <pthread.h>

#include <intel-ipsec-mb.h>
#endif

struct aead {
    EVP_CIPHER_CTX *seal, *unseal; /* EVP; NULL: intel-ipsec-mb */
    void *memory;                  /* what holds the expanded key */
    struct gcm_key_data *key;
};

/* --- intel-ipsec-mb ------------------------------------------------------------------------------
 */

#ifdef HAVE_IPSEC_MB

/*
 * The library is loaded when it is there, not linked: its absence must not keep the program from
 * starting. Its one-call GCM functions keep no state but what they are given, so the manager that
 * chose them for this CPU is not needed after that.
 */
static struct {
    aes_gcm_pre_t expand;
    aes_gcm_enc_dec_t encrypt, decrypt;
    char name[40];
} mb;

static void load_mb(void)
{
    void *lib = dlopen("libIPSec_MB.so.1", RTLD_NOW | RTLD_LOCAL);
    unsigned (*version)(void) = lib ? (unsigned (*)(void))dlsym(lib, "imb_get_version") : NULL;
    IMB_MGR *(*alloc)(uint64_t) = lib ? (IMB_MGR * (*)(uint64_t)) dlsym(lib, "alloc_mb_mgr") : NULL;
    void (*choose)(IMB_MGR *, IMB_ARCH *) =
        lib ? (void (*)(IMB_MGR *, IMB_ARCH *))dlsym(lib, "init_mb_mgr_auto") : NULL;
    void (*release)(IMB_MGR *) = lib ? (void (*)(IMB_MGR *))dlsym(lib, "free_mb_mgr") : NULL;
    IMB_ARCH arch = IMB_ARCH_NONE;
    IMB_MGR *m;

    /* The manager's layout is that of the header's version. */
    if (!version || !alloc || !choose || !release || version() >> 8 != IMB_VERSION_NUM >> 8)
        return;
    m = alloc(0);
    if (!m)
        return;
    choose(m, &arch);
    if (arch != IMB_ARCH_NONE && arch != IMB_ARCH_NOAESNI) {
        mb.expand = m->gcm128_pre;
        mb.encrypt = m->gcm128_enc;
        mb.decrypt = m->gcm128_dec;
        snprintf(mb.name, sizeof mb.name, "intel-ipsec-mb %u.%u.%u", version() >> 16,
                 version() >> 8 & 255, version() & 255);
    }
    release(m);
}

static bool have_mb(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, load_mb);
    return mb.encrypt;
}

static int open_mb(struct aead *a, const uint8_t key[AEAD_KEY_BYTES])
{
    const size_t align = 64;

    a->memory = OPENSSL_secure_zalloc(sizeof *a->key + align);
    if (!a->memory) /* more links than the secure heap has room for */
        a->memory = OPENSSL_zalloc(sizeof *a->key + align);
    if (!a->memory)
        return -ENOMEM;
    a->key = (struct gcm_key_data *)(((uintptr_t)a->memory + align - 1) & ~(align - 1));
    mb.expand(key, a->key);
    return 0;
}

static void close_mb(struct aead *a)
{
    OPENSSL_secure_clear_free(a->memory, sizeof *a->key + 64);
}

static int seal_mb(struct aead *a, const uint8_t *nonce, const uint8_t *aad, size_t aad_bytes,
                   uint8_t *text, size_t bytes, uint8_t *tag)
{
    struct gcm_context_data context;

    mb.encrypt(a->key, &context, text, text, bytes, nonce, aad, aad_bytes, tag, AEAD_TAG_BYTES);
    return 0;
}

static int unseal_mb(struct aead *a, const uint8_t *nonce, const uint8_t *aad, size_t aad_bytes,
                     uint8_t *text, size_t bytes, const uint8_t *tag)
{
    struct gcm_context_data context;
    uint8_t right[AEAD_TAG_BYTES];

    mb.decrypt(a->key, &context, text, text, bytes, nonce, aad, aad_bytes, right, sizeof right);
    return CRYPTO_memcmp(right, tag, sizeof right) ? -EBADMSG : 0;
}

#else

static bool have_mb(void)
{
    return false;
}

#endif

/* --- EVP -----------------------------------------------------------------------------------------
 */

static int open_evp(struct aead *a, const uint8_t key[AEAD_KEY_BYTES])
{
    a->seal = EVP_CIPHER_CTX_new();
    a->unseal = EVP_CIPHER_CTX_new();
    if (!a->seal || !a->unseal ||
        EVP_EncryptInit_ex(a->seal, EVP_aes_128_gcm(), NULL, key, NULL) != 1 ||
        EVP_DecryptInit_ex(a->unseal, EVP_aes_128_gcm(), NULL, key, NULL) != 1)
        return -ENOMEM;
    return 0;
}

static int seal_evp(struct aead *a, const uint8_t *nonce, const uint8_t *aad, size_t aad_bytes,
                    uint8_t *text, size_t bytes, uint8_t *tag)
{
    int n;

    if (EVP_EncryptInit_ex(a->seal, NULL, NULL, NULL, nonce) != 1 ||
        EVP_EncryptUpdate(a->seal, NULL, &n, aad, (int)aad_bytes) != 1 ||
        (bytes && EVP_EncryptUpdate(a->seal, text, &n, text, (int)bytes) != 1) ||
        EVP_EncryptFinal_ex(a->seal, text, &n) != 1 ||
        EVP_CIPHER_CTX_ctrl(a->seal, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_BYTES, tag) != 1)
        return -EIO;
    return 0;
}

/* EVP compares the tag in constant time itself. */
static int unseal_evp(struct aead *a, const uint8_t *nonce, const uint8_t *aad, size_t aad_bytes,
                      uint8_t *text, size_t bytes, const uint8_t *tag)
{
    uint8_t expected[AEAD_TAG_BYTES];
    int n;

    memcpy(expected, tag, sizeof expected); /* EVP takes no const */
    if (EVP_DecryptInit_ex(a->unseal, NULL, NULL, NULL, nonce) != 1 ||
        EVP_DecryptUpdate(a->unseal, NULL, &n, aad, (int)aad_bytes) != 1 ||
        (bytes && EVP_DecryptUpdate(a->unseal, text, &n, text, (int)bytes) != 1) ||
        EVP_CIPHER_CTX_ctrl(a->unseal, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_BYTES, expected) != 1 ||
        EVP_DecryptFinal_ex(a->unseal, text, &n) != 1)
        return -EBADMSG;
    return 0;
}

/* --- either --------------------------------------------------------------------------------------
 */

const char *aead_implementation(void)
{
#ifdef HAVE_IPSEC_MB
    if (have_mb())
        return mb.name;
#endif
    return "OpenSSL EVP";
}

int aead_open(enum aead_kind kind, const uint8_t key[AEAD_KEY_BYTES], struct aead **out)
{
    struct aead *a;
    int rc;

    if (kind == AEAD_AUTO)
        kind = have_mb() ? AEAD_IPSEC_MB : AEAD_EVP;
    if (kind == AEAD_IPSEC_MB && !have_mb())
        return -ENOTSUP;
    a = calloc(1, sizeof *a);
    if (!a)
        return -ENOMEM;
#ifdef HAVE_IPSEC_MB
    rc = kind == AEAD_IPSEC_MB ? open_mb(a, key) : open_evp(a, key);
#else
    rc = open_evp(a, key);
#endif
    if (rc) {
        aead_close(a);
        return rc;
    }
    *out = a;
    return 0;
}

void aead_close(struct aead *a)
{
    if (!a)
        return;
#ifdef HAVE_IPSEC_MB
    close_mb(a);
#endif
    EVP_CIPHER_CTX_free(a->seal); /* wipes the key */
    EVP_CIPHER_CTX_free(a->unseal);
    free(a);
}

int aead_seal(struct aead *a, const uint8_t nonce[AEAD_NONCE_BYTES], const uint8_t *aad,
              size_t aad_bytes, uint8_t *text, size_t bytes, uint8_t tag[AEAD_TAG_BYTES])
{
#ifdef HAVE_IPSEC_MB
    if (a->key)
        return seal_mb(a, nonce, aad, aad_bytes, text, bytes, tag);
#endif
    return seal_evp(a, nonce, aad, aad_bytes, text, bytes, tag);
}

int aead_unseal(struct aead *a, const uint8_t nonce[AEAD_NONCE_BYTES], const uint8_t *aad,
                size_t aad_bytes, uint8_t *text, size_t bytes, const uint8_t tag[AEAD_TAG_BYTES])
{
#ifdef HAVE_IPSEC_MB
    if (a->key)
        return unseal_mb(a, nonce, aad, aad_bytes, text, bytes, tag);
#endif
    return unseal_evp(a, nonce, aad, aad_bytes, text, bytes, tag);
}
