/* SPDX-License-Identifier: MIT */
/* libquern: run GGUF language models on the CPU.
 *
 * An engine is one opened model: immutable weights, a team of workers and the step's scratch.  A sequence is
 * one timeline of tokens with its KV cache and recurrent states.  qn_eval() appends tokens to any number of
 * sequences at once and returns logits.  The same file, ids and settings give the same logit bits for any
 * number of threads, any cutting of the prompt and any company in the batch.
 *
 *     qn_engine *e; qn_seq *s; struct qn_error err;
 *     struct qn_options o = { .model = "model.gguf" };
 *     if (qn_open(&e, &o, &err) || qn_seq_new(&s, e, &err)) die(err.text);
 *     struct qn_span span = { .seq = s, .ids = ids, .n = n, .logits = QN_LOGITS_LAST };
 *     if (qn_eval(e, &span, 1, logits, &err)) die(err.text);
 *
 * One thread at a time may call into an engine and its sequences.  Every function that can fail takes a
 * `struct qn_error *` (never NULL), returns 0 or a negative code and then leaves one line of text there. */
#ifndef QUERN_H
#define QUERN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QN_API __attribute__((visibility("default")))

/* Version of the arithmetic: two builds with equal QN_BITS give equal logits. */
#define QN_BITS 1

enum {
    QN_E_IO = -1, /* a file cannot be opened, read or written */
    QN_E_FORMAT = -2, /* a file is not what it should be */
    QN_E_UNSUPPORTED = -3, /* well formed, but not something this build can run */
    QN_E_MEMORY = -4, /* not enough memory */
    QN_E_ARGUMENT = -5, /* a value given by the caller is out of range */
    QN_E_NOSPACE = -6, /* the context of a sequence is full */
    QN_E_NUMERIC = -7, /* NaN logits: the text names the layer */
    QN_E_TEMPLATE = -8, /* a chat template refuses, or exceeds its budget */
    QN_E_CANCELLED = -9 /* the progress callback asked to stop */
};

struct qn_error {
    int code; /* one of QN_E_* */
    char text[1024]; /* one line, no newline at its end, UTF-8 */
};

typedef struct qn_engine qn_engine;
typedef struct qn_seq qn_seq;

/* ------------------------------------------------------------------ engine */

/* The last four are quantized, in groups of 32 dimensions of a head, which must be a multiple of 32. */
enum qn_kv_type { QN_KV_F16, QN_KV_F32, QN_KV_BF16, QN_KV_Q8_0, QN_KV_Q5_0, QN_KV_Q4_0, QN_KV_IQ4_NL };
enum qn_delta_form { QN_DELTA_EXACT, QN_DELTA_CHUNKED /* tests and measurements only */ };
#define QN_CACHE_AUTO SIZE_MAX
enum qn_log_level { QN_LOG_WARN, QN_LOG_INFO, QN_LOG_DEBUG };

struct qn_options {
    const char *model; /* path of the GGUF file, the first part of a split one */
    int vocab_only; /* read metadata and vocabulary only: no tensors, no evaluation; default 0 */
    int n_threads; /* workers in steps of up to n_seq rows; 0 = physical cores within affinity and quota; 0..1024 */
    int n_threads_batch; /* workers in larger steps; 0 = n_threads */
    int n_ctx; /* most positions of a sequence; 0 = the model's context length.  Memory is taken as they are used */
    int n_seq; /* sequences alive at once; 0 = 1; 1..1024 */
    int n_ubatch; /* rows a step computes at once; 0 = 512; 1..8192 */
    int n_draft; /* most guessed tokens that qn_try() takes for a sequence; 0..63 */
    int draft_block; /* load the model's own draft block, for qn_draft(); QN_E_UNSUPPORTED when it has none; default 0 */
    size_t cache_ram; /* most bytes of the prefix store; 0 = there is none; QN_CACHE_AUTO = a quarter of what is left */
    const char *
        cache_dir; /* folder for what the prefix store has no room for, and has at the end; made if missing; NULL = none */
    size_t cache_disk; /* most bytes of files there; 0 = the smaller of 16 GiB and a quarter of the free space */
    enum qn_kv_type type_k; /* of the KV cache's keys */
    enum qn_kv_type type_v; /* of the KV cache's values */
    enum qn_delta_form delta;
    int no_numa; /* do not pin workers or place memory; default 0 */
    /* Pack cache: the weights as the kernels read them, in a file that is mapped.  It is written when it is not there. */
    const char *pack_cache; /* the file; refused when it is not this model's; NULL = none */
    const char
        *pack_cache_dir; /* or a folder, where the name follows from the content; rewritten when it does not fit */
    int hash_model; /* sessions will be saved or loaded: hash the weights while they are read, not at the first session; default 0 */
    const char *hash_dir; /* folder where the hash is noted until a file changes; NULL = none */
    int hugepages; /* put the weights into explicit huge pages, which the system must have set aside; default 0 */
    const char *isa; /* kernel level; NULL or "auto" = the best this machine has; else c, avx2, avx512, neon, i8mm */
    const char *pre; /* pre-tokenizer, overrides tokenizer.ggml.pre; NULL = the file's */
    const char *template_text; /* chat template, overrides the file's; NULL = the file's */

    /* rope overrides; 0 / NULL = the file's */
    float rope_freq_base;
    float rope_scale; /* context extension factor */
    const char *rope_scaling; /* none, linear, yarn */

    /* Called from the calling thread while a model loads, share in 0..1; a non-zero return cancels.  May be NULL. */
    int (*progress)(void *cookie, const char *what, double share);
    void (*log)(void *cookie, enum qn_log_level level, const char *line); /* may be NULL */
    void *cookie;
};

/* Opens a model.  On success *out is owned by the caller, who ends it with qn_close().  On failure *out is NULL.
 * Strings in *o are not kept. */
QN_API int qn_open(qn_engine **out, const struct qn_options *o, struct qn_error *err);
QN_API void qn_close(qn_engine *e); /* NULL is fine; all its sequences must be gone */

struct qn_model_info {
    const char *arch, *name; /* general.architecture, general.name ("" when absent) */
    const char *description; /* e.g. "qwen35moe 35B, IQ4_XS" */
    int n_vocab, n_layer, n_embd;
    int n_ctx_train; /* the model's context length */
    int n_ctx; /* most positions of a sequence of this engine */
    int n_threads, n_threads_batch;
    int64_t n_params; /* all weights */
    size_t bytes_weights; /* tensors as held in memory */
    size_t bytes_per_seq; /* KV cache and states of one full sequence */
    size_t bytes_step; /* scratch of a step, but for what grows with the context */
    const char *isa; /* kernel level in use */
    int id_bos, id_eos, id_eot, id_pad; /* -1 when the file has none */
    int add_bos; /* the file asks for BOS in front of a text */
    int has_template;
};
/* Strings live as long as the engine. */
QN_API void qn_model_info(const qn_engine *e, struct qn_model_info *out);

QN_API const char *qn_version(void); /* e.g. "0.1.0" */

/* --------------------------------------------------------------- sequences */

/* A new, empty sequence; QN_E_NOSPACE when n_seq are alive.  Owned by the caller; ended by qn_seq_free(). */
QN_API int qn_seq_new(qn_seq **out, qn_engine *e, struct qn_error *err);
QN_API void qn_seq_free(qn_seq *s); /* NULL is fine */
QN_API void qn_seq_clear(qn_seq *s);
QN_API int qn_seq_len(const qn_seq *s); /* tokens evaluated so far */
QN_API const int32_t *qn_seq_ids(const qn_seq *s); /* [qn_seq_len()] they, until s is changed */
/* A new sequence that has what s has, and goes on with the same bits; QN_E_NOSPACE when n_seq are alive.  Pages of the KV cache are
 * shared and copied only where one of the two writes on into a page that the other has written to; a recurrent state is copied. */
QN_API int qn_seq_fork(qn_seq **out, const qn_seq *s, struct qn_error *err);

/* Memory.  What was available when the engine was opened, less weights, scratch and the states of n_seq sequences, is a budget for
 * keys and values and for the prefix store, which gives way to sequences.  A page of 128 positions is charged when it is promised or
 * used, once however many sequences share it. */

/* Promises that s can grow to n tokens in all, whatever others do: no later call fails for want of that memory.  A new promise takes
 * the place of an earlier one; qn_seq_clear(), _free(), _resume(), _rewind() and _load() end it.  QN_E_NOSPACE: n is more than n_ctx;
 * QN_E_MEMORY: the text says how many would fit.  On error nothing has changed.  Without a promise qn_eval() sees for itself. */
QN_API int qn_seq_reserve(qn_seq *s, int n, struct qn_error *err);
/* The largest n that qn_seq_reserve() would promise now. */
QN_API int qn_seq_fits(const qn_seq *s);

struct qn_memory_info {
    size_t budget;
    size_t used; /* by sequences and the prefix store */
    size_t promised; /* to sequences beside */
};
QN_API void qn_memory_info(const qn_engine *e, struct qn_memory_info *out);

/* The prefix store keeps what sequences have computed, found again by its tokens, up to options.cache_ram bytes; what was not used
 * for longest leaves first.  A recurrent state cannot be taken back token by token, so a sequence of a model that has one can be
 * resumed where a snapshot was made: by qn_seq_keep(), by qn_seq_resume() of what it gives up, and unasked at some multiples of 512
 * positions.  Other models can be resumed at every token.  What is brought back continues with the bits of a fresh computation.
 *
 * With options.cache_dir, what leaves the store is written there, and at qn_close() what is not there yet, the last used first; it is
 * found again by any engine with the same model, KV types and rope settings.  Files of a folder are counted and removed, least recently
 * used first, whoever wrote them; several processes may use it at once. */

/* Keeps what s has computed so far.  Returns 1, or 0 when it does not fit the budget or there is no store. */
QN_API int qn_seq_keep(qn_seq *s);

/* What qn_seq_resume() found. */
struct qn_kept {
    int n; /* tokens of the prompt */
    int kept; /* of them need not be computed */
    int disk; /* of those kept, only the folder had so many */
    int same; /* of them are known; those from kept on are computed again for want of a snapshot, or a file that ends there */
    int32_t was, is; /* the next token of what is known and of the prompt: where they part; -1 = none */
};
/* Makes s hold the longest beginning of ids[0..n) that it has itself or the store knows, but at least one token less than n, and
 * returns its length: evaluate ids from there on.  What s held and does not need for it is kept in the store. */
QN_API int qn_seq_resume(qn_seq *s, const int32_t *ids, int n, struct qn_kept *out /* may be NULL */);
/* Takes s back to its first n tokens, or to the last place in front of them that it can be resumed at; returns its length. */
QN_API int qn_seq_rewind(qn_seq *s, int n);

/* A session: the sequence in a file, with the last snapshots in front of its end and a note of the caller's, any n_note bytes.  The
 * file (mode 0600) is there complete or not at all, and until it is, one that had the name stays.  It can be loaded by an engine with
 * the same model, KV types and rope settings and enough context, and continues with the same bits; n_seq, threads and the rest may
 * differ. */
QN_API int qn_seq_save(const qn_seq *s, const char *path, const void *note, size_t n_note, struct qn_error *err);
/* What s held is dropped, and the snapshots go to the prefix store.  *note, unless note is NULL, is malloc [n_note + 1] with a NUL
 * behind it, the caller's.  On error s is empty: QN_E_IO, QN_E_FORMAT for what is no session or is damaged in any byte,
 * QN_E_UNSUPPORTED for another version of the format or of the arithmetic, QN_E_ARGUMENT for another model or other settings,
 * QN_E_NOSPACE when the context is too small, QN_E_MEMORY when memory is. */
QN_API int qn_seq_load(qn_seq *s, const char *path, char **note, size_t *n_note, struct qn_error *err);

struct qn_cache_info {
    size_t budget, bytes; /* allowed and in use; a page is counted though sequences may share it */
    int n_snapshots;
    int64_t n_evicted; /* snapshots that have left since the engine was opened */
    size_t disk_budget, disk_bytes; /* of options.cache_dir: allowed; there when this engine looked last */
    int64_t n_written, n_read; /* snapshots written there, and read */
};
QN_API void qn_cache_info(const qn_engine *e, struct qn_cache_info *out);

enum qn_logits { QN_LOGITS_NONE, QN_LOGITS_LAST, QN_LOGITS_ALL };

struct qn_span {
    qn_seq *seq; /* a sequence may occur in one span of a call only */
    const int32_t *ids; /* [n], each 0 <= id < n_vocab */
    int n; /* >= 1 */
    enum qn_logits logits;
};

/* Appends the spans' ids to their sequences, in as many steps as n_ubatch asks for.  logits receives
 * [rows][n_vocab] floats, rows in order of spans, for the rows that were asked for; may be NULL when none were.
 * On error before the first step nothing has changed (QN_E_MEMORY: see qn_seq_reserve()); QN_E_NUMERIC leaves the sequences cleared. */
QN_API int qn_eval(qn_engine *e, const struct qn_span *spans, int n_spans, float *logits, struct qn_error *err);

/* ------------------------------------------------------------- speculation
 *
 * Tokens that somebody guesses can be evaluated at once, which costs less than one by one, and kept as far as they turn out right.
 * Their logits have the bits that they have when they are evaluated one by one, so what is picked from them is the same text. */

/* As qn_eval(), in one step, but leaves open how many of each span's tokens stay; options.n_draft > 0.  A span has at most n_draft + 1
 * tokens, all spans together at most n_ubatch and n_seq times as many.  Nothing else may be done with these sequences until qn_commit(). */
QN_API int qn_try(qn_engine *e, const struct qn_span *spans, int n_spans, float *logits, struct qn_error *err);
/* Ends the last qn_try(), which succeeded: the first keep[i] tokens of span i stay, 0..its n; the others leave no trace. */
QN_API void qn_commit(qn_engine *e, const int *keep);
/* Guesses of the model's own draft block (multi-token prediction), options.draft_block: writes up to n tokens that may come behind the
 * tokens of s and `next`, which was picked and not evaluated yet, and returns how many, or a negative code.  The sequence stays as it is.
 * What is evaluated next is expected to begin with `next`; if it does not, later guesses are worse, and nothing else.  logits: NULL, or
 * [n][n_vocab], what the block says. */
QN_API int qn_draft(qn_seq *s, int32_t next, int n, int32_t *ids, float *logits, struct qn_error *err);

/* --------------------------------------------------------------- statistics */

/* What the time of a step goes to.  Norms and quantization count with the products that they feed. */
enum qn_phase {
    QN_PHASE_PROJECTIONS, /* products into and out of the mixers */
    QN_PHASE_DELTA, /* convolution, delta rule, gated norm */
    QN_PHASE_ATTENTION, /* rotation, KV cache, attention proper */
    QN_PHASE_ROUTER, /* products of the router, choice of experts */
    QN_PHASE_EXPERTS, /* feed-forward products: routed and shared experts, or a dense block */
    QN_PHASE_HEAD, /* last norm and output matrix */
    QN_PHASE_OTHER, /* starting the workers, embedding, rotary angles */
    QN_PHASE_WAITING, /* at barriers and for the end of the step */
    QN_PHASES
};
QN_API const char *qn_phase_name(enum qn_phase p); /* "projections", "delta-net", ... */

/* Sums over all steps since qn_stats_start(). */
struct qn_stats {
    int64_t steps, rows; /* a row is one token */
    double seconds; /* wall time of the steps */
    double phase_s[QN_PHASES]; /* mean over the workers; adds up to seconds */
    double wait_least_s, wait_most_s; /* time at barriers of the worker that waited least, and most, step by step */
    int64_t barriers; /* passed by each worker, also by a lone one, which does not wait there */
    /* What has to be moved: every weight that the step needs once, keys and values up to the last position once, states
     * read and written once.  Caches may make it less, several passes over a large batch more. */
    double bytes[QN_PHASES];
    double int_ops[QN_PHASES]; /* multiplications and additions of products with quantized weights */
    /* The same of products with float weights, of attention (queries by keys, weights by values) and of the delta rule in its
     * exact form; norms, activations and the like are left out. */
    double float_ops[QN_PHASES];
    int64_t expert_layers, experts; /* layers with routed experts passed; different experts used in them, summed */
};

/* Starts from zero.  Costs two readings of the clock at each barrier and one where a phase begins until it is stopped. */
QN_API void qn_stats_start(qn_engine *e);
QN_API void qn_stats_stop(qn_engine *e);
QN_API void qn_stats(const qn_engine *e, struct qn_stats *out);

/* --------------------------------------------------------------- text */

enum {
    QN_TOK_SPECIAL = 1, /* control tokens (type 3) in the text are recognised; user-defined ones always are */
    QN_TOK_BOS = 2 /* put BOS in front if the file asks for it */
};

/* Text to ids.  special: NULL, or one byte per byte of text: control tokens are recognised only where every byte is
 * non-zero (instead of QN_TOK_SPECIAL).  *ids is allocated with malloc and owned by the caller. */
QN_API int qn_tokenize(const qn_engine *e, const char *text, size_t n, const uint8_t *special, unsigned flags,
                       int32_t **ids, int *n_ids, struct qn_error *err);

/* The bytes of one token, not NUL-terminated, owned by the engine; control tokens give "" unless show_control. */
QN_API const char *qn_token_bytes(const qn_engine *e, int32_t id, int show_control, size_t *n);
QN_API int qn_token_is_control(const qn_engine *e, int32_t id);
/* The id of the token with exactly this text, or -1. */
QN_API int32_t qn_token_find(const qn_engine *e, const char *text);
/* Ends a turn: eos, eot, eom and the control tokens with such names. */
QN_API int qn_token_is_stop(const qn_engine *e, int32_t id);

/* Streaming detokenizer: give ids one by one, get whole UTF-8 characters.  Zero-initialise it. */
struct qn_detok {
    char held[8]; /* an unfinished character */
    int n_held;
    int started; /* SentencePiece: the first space is dropped */
};
/* Writes at most cap bytes (cap >= token length + 8) and returns their number; invalid bytes pass unchanged once it is
 * clear that they start no character. */
QN_API size_t qn_detok_put(struct qn_detok *d, const qn_engine *e, int32_t id, int show_control, char *out, size_t cap);
QN_API size_t qn_detok_end(struct qn_detok *d, char *out, size_t cap); /* what was held back */

/* Chat template.  All JSON arguments are texts; tools, kwargs and now may be NULL. */
struct qn_render_args {
    const char *template_text; /* NULL = the engine's */
    const char *messages; /* JSON array of messages */
    const char *tools; /* JSON array */
    const char *kwargs; /* JSON object: more variables, e.g. {"enable_thinking": false} */
    const char *now; /* "YYYY-MM-DD HH:MM:SS" for strftime_now; NULL = local time */
    int add_generation_prompt; /* value of the variable unless kwargs has it */
};
struct qn_text {
    char *bytes; /* [n + 1], NUL-terminated, malloc */
    uint8_t *special; /* [n] 1: written by the template itself, 0: came from message content; malloc */
    size_t n;
};
/* e may be NULL when template_text is given; bos_token and eos_token come from the engine unless kwargs has them.
 * QN_E_TEMPLATE when the template refuses (raise_exception) or runs over its budgets. */
QN_API int qn_render(const qn_engine *e, const struct qn_render_args *a, struct qn_text *out, struct qn_error *err);
QN_API void qn_text_free(struct qn_text *t);

/* --------------------------------------------------------------- sampling */

enum { QN_SAMPLER_MAX = 16, QN_DRY_BREAKERS_MAX = 16 };
enum qn_sampler_kind {
    QN_S_END,
    QN_S_PENALTIES,
    QN_S_DRY,
    QN_S_TOP_N_SIGMA,
    QN_S_TOP_K,
    QN_S_TYPICAL,
    QN_S_TOP_P,
    QN_S_MIN_P,
    QN_S_XTC,
    QN_S_TEMPERATURE
};
struct qn_logit_bias {
    int32_t id;
    float bias;
};

struct qn_sampling {
    uint64_t seed;
    uint64_t stream; /* keeps equal seeds apart: line number in batch, count of regenerations in chat */
    float temperature; /* 0 = greedy */
    int top_k; /* 0 = off */
    float top_p; /* 1 = off */
    float min_p; /* 0 = off */
    float typical_p; /* 1 = off */
    float top_n_sigma; /* <= 0 = off */
    float xtc_probability; /* 0 = off */
    float xtc_threshold;
    int min_keep; /* candidates every filter leaves; >= 1 */
    int penalty_last_n; /* tokens looked at; 0 = off, -1 = all */
    float repeat_penalty; /* 1 = off */
    float presence_penalty, frequency_penalty; /* 0 = off */
    float dry_multiplier; /* 0 = off */
    float dry_base;
    int dry_allowed_length, dry_penalty_last_n;
    const char *dry_breakers[QN_DRY_BREAKERS_MAX]; /* NULL-terminated */
    int mirostat; /* 0 = off, 2 = version 2 (then top_k .. xtc are not used) */
    float mirostat_tau, mirostat_eta;
    const struct qn_logit_bias *bias; /* copied */
    int n_bias;
    int ignore_eos; /* the stop set is never sampled */
    enum qn_sampler_kind order[QN_SAMPLER_MAX]; /* QN_S_END-terminated */
};

/* Fills in neutral values, then those of the file's general.sampling.* keys, else those recommended for its architecture.
 * thinking chooses between a model's two recommendations.  Returns a phrase saying where the values came from. */
QN_API const char *qn_sampling_defaults(struct qn_sampling *p, const qn_engine *e, int thinking);
/* Sets the order from names separated by ';' or ',': penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc,
 * temperature.  "" = none.  On error *p is unchanged. */
QN_API int qn_sampling_order(struct qn_sampling *p, const char *names, struct qn_error *err);

typedef struct qn_sampler qn_sampler;
QN_API int qn_sampler_new(qn_sampler **out, const qn_engine *e, const struct qn_sampling *p, struct qn_error *err);
QN_API void qn_sampler_free(qn_sampler *s);
/* Chooses a token from logits [n_vocab], which are not changed, and remembers it for the penalties.
 * Draws depend on (seed, stream, tokens sampled so far) alone. */
QN_API int32_t qn_sampler_pick(qn_sampler *s, const float *logits);
QN_API void qn_sampler_accept(qn_sampler *s, int32_t id); /* a prompt token that the penalties should see */

#ifdef __cplusplus
}
#endif
#endif
