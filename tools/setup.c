/* SPDX-License-Identifier: MIT */
/* Opening the model, the bundled one if none is named, and turning options into sampling settings. */
#include "setup.h"
#include "io.h"
#include "term.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef DEMO_MODEL
#define DEMO_MODEL "demo.gguf"
#endif

/* The folder of the running program, or "". */
static void program_folder(char *out, size_t cap)
{
    ssize_t n = readlink("/proc/self/exe", out, cap - 1);
    out[n > 0 ? n : 0] = 0;
    char *slash = strrchr(out, '/');
    if (slash)
        *slash = 0;
}

/* A build tree has the model beside the program, an installation in its data folder. */
static const char *demo_path(void)
{
    static char path[PATH_MAX + 64];
    static const char *const beside[] = {"tests/data/demo.gguf", "../tests/data/demo.gguf", "../share/quern/demo.gguf"};
    char folder[PATH_MAX];
    program_folder(folder, sizeof folder);
    for (size_t i = 0; folder[0] && i < sizeof beside / sizeof *beside; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, beside[i]);
        if (!access(path, R_OK))
            return path;
    }
    return DEMO_MODEL;
}

bool setup_is_demo(const struct opts *o) { return !GIVEN(o, model) && o->cmd != CMD_INSPECT; }

const char *setup_model(struct opts *o)
{
    if (!o->model) {
        o->model = demo_path();
        if (access(o->model, R_OK))
            die("%s: %s (the bundled demo model; -m FILE names another one)", o->model, strerror(errno));
        say("no model given: using the bundled demo model %s", o->model);
    }
    return o->model;
}

static int on_progress(void *cookie, const char *what, double share)
{
    struct progress *bar = cookie;
    if (strcmp(bar->what, what)) { /* the next stage */
        progress_end(bar);
        progress_begin(bar, what);
    }
    progress_set(bar, share, "");
    return 0;
}

/* Where caches of models lie, malloc; NULL when nothing names a folder. */
static char *cache_folder(void)
{
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (base && base[0] == '/') {
        mkdir(base, 0700); /* if that fails, so does what comes next, with a message */
        return xprintf("%s/quern", base);
    }
    if (!home || home[0] != '/')
        return NULL;
    char *folder = xprintf("%s/.cache", home);
    mkdir(folder, 0700);
    free(folder);
    return xprintf("%s/.cache/quern", home);
}

/* Only what comes back to earlier prompts, or to the beginning of one, has a prefix store. */
static size_t cache_bytes(const struct opts *o)
{
    bool run = o->cmd == CMD_RUN && (o->session || o->cache_dir || CHOICE(o, on_full) != FULL_STOP);
    if (o->cmd != CMD_CHAT && o->cmd != CMD_BATCH && !run)
        return 0;
    return GIVEN(o, cache_ram) ? (size_t)o->cache_ram << 20 : QN_CACHE_AUTO;
}

/* Most tokens that are guessed at once. */
static int guesses(const struct opts *o)
{
    return (o->spec && strcmp(o->spec, "off")) || o->list_right.n ? o->draft_max : 0;
}

static void on_log(void *cookie, enum qn_log_level level, const char *line)
{
    if (level == QN_LOG_WARN)
        say("%s", line);
}

qn_engine *setup_open(struct opts *o, struct setup_size size)
{
    struct qn_error err;
    struct progress bar;
    qn_engine *e;
    size_t n;
    char *template_text = o->template_file ? io_read(o->template_file, &n) : NULL;
    if (template_text && strlen(template_text) != n)
        die("%s: holds a NUL byte", o->template_file);
    if (o->cache_dir && GIVEN(o, cache_ram) && o->cache_ram == 0)
        usage("--cache-dir: takes what leaves memory, and --cache-ram 0 keeps nothing there");
    if (GIVEN(o, cache_disk) && !o->cache_dir)
        usage("--cache-disk: there is no --cache-dir");
    bool automatic = o->pack_cache && !strcmp(o->pack_cache, "auto");
    bool saved = o->session || o->cache_dir;
    char *folder = automatic || saved ? cache_folder() : NULL;
    if (automatic && !folder)
        die("--pack-cache auto: neither XDG_CACHE_HOME nor HOME names a folder");
    progress_begin(&bar, "loading");
    struct qn_options q = {
        .model = setup_model(o),
        .vocab_only = size.vocab_only,
        .n_threads = size.n_threads < 0 ? o->n_threads : size.n_threads,
        .n_threads_batch = o->n_threads_batch,
        .n_ctx = size.n_ctx,
        .n_seq = size.n_seq,
        .n_ubatch = o->n_ubatch,
        .n_draft = guesses(o),
        .draft_block = o->spec && !strcmp(o->spec, "mtp"),
        .cache_ram = cache_bytes(o),
        .cache_dir = o->cache_dir,
        .cache_disk = (size_t)o->cache_disk << 20,
        .type_k = (enum qn_kv_type)CHOICE(o, type_k), /* the table's order is that of the types */
        .type_v = (enum qn_kv_type)CHOICE(o, type_v),
        .delta = (enum qn_delta_form)CHOICE(o, delta),
        .no_numa = o->numa && !strcmp(o->numa, "off"),
        .pack_cache = automatic ? NULL : o->pack_cache,
        .pack_cache_dir = automatic ? folder : NULL,
        .hash_model = saved,
        .hash_dir = folder,
        .hugepages = o->hugepages,
        .isa = o->isa,
        .pre = o->pre,
        .template_text = template_text,
        .rope_freq_base = (float)o->rope_freq_base,
        .rope_scale = (float)o->rope_scale,
        .rope_scaling = o->rope_scaling,
        .progress = on_progress,
        .log = on_log,
        .cookie = &bar,
    };
    int rc = qn_open(&e, &q, &err);
    progress_end(&bar);
    free(template_text);
    free(folder);
    if (rc)
        die("%s", err.text);
    return e;
}

/* ---- sampling */

void setup_seed(struct opts *o)
{
    if (o->seed != UINT64_MAX)
        return;
    uint32_t random; /* short enough to be typed again */
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        die("no random seed: %s", strerror(errno));
    o->seed = random;
}

/* "29905+1.5", "29905-inf" */
static void read_bias(struct qn_logit_bias *b, const char *text, int n_vocab)
{
    char *end;
    errno = 0;
    long id = strtol(text, &end, 10);
    char *number = end;
    double bias = (*number == '+' || *number == '-') ? strtod(number, &end) : NAN;
    if (end == text || *end || errno || isnan(bias))
        usage("--logit-bias: '%s' is not of the form ID+N or ID-N", text);
    if (id < 0 || id >= n_vocab)
        usage("--logit-bias: id %ld is not within the vocabulary of %d tokens", id, n_vocab);
    *b = (struct qn_logit_bias){.id = (int32_t)id, .bias = (float)bias};
}

static void read_breakers(struct qn_sampling *p, const struct strings *list)
{
    int n = 0;
    for (int i = 0; i < list->n; i++) {
        if (!strcmp(list->v[i], "none"))
            continue;
        if (n + 1 >= QN_DRY_BREAKERS_MAX)
            usage("--dry-sequence-breaker: more than %d of them", QN_DRY_BREAKERS_MAX - 1);
        p->dry_breakers[n++] = list->v[i];
    }
    p->dry_breakers[n] = NULL;
}

void setup_greedy(struct qn_sampling *p, const struct opts *o)
{
    p->temperature = 0;
    if (!GIVEN(o, repeat_penalty))
        p->repeat_penalty = 1;
    if (!GIVEN(o, presence_penalty))
        p->presence_penalty = 0;
    if (!GIVEN(o, frequency_penalty))
        p->frequency_penalty = 0;
    if (!GIVEN(o, dry_multiplier))
        p->dry_multiplier = 0;
}

const char *setup_sampling(struct qn_sampling *p, const struct opts *o, const qn_engine *e, bool thinking,
                           struct qn_logit_bias **bias)
{
    struct qn_model_info info;
    qn_model_info(e, &info);
    memset(p, 0, sizeof *p);
    const char *source = qn_sampling_defaults(p, e, thinking);
    p->seed = o->seed;
#define TAKE(option, field) \
    if (GIVEN(o, option)) \
    p->field = (__typeof__(p->field))o->option
    TAKE(temp, temperature);
    TAKE(top_k, top_k);
    TAKE(top_p, top_p);
    TAKE(min_p, min_p);
    TAKE(typical, typical_p);
    TAKE(top_n_sigma, top_n_sigma);
    TAKE(xtc_probability, xtc_probability);
    TAKE(xtc_threshold, xtc_threshold);
    TAKE(dry_multiplier, dry_multiplier);
    TAKE(dry_base, dry_base);
    TAKE(dry_allowed_length, dry_allowed_length);
    TAKE(dry_last_n, dry_penalty_last_n);
    TAKE(repeat_last_n, penalty_last_n);
    TAKE(repeat_penalty, repeat_penalty);
    TAKE(presence_penalty, presence_penalty);
    TAKE(frequency_penalty, frequency_penalty);
    TAKE(mirostat, mirostat);
    TAKE(mirostat_lr, mirostat_eta);
    TAKE(mirostat_ent, mirostat_tau);
#undef TAKE
    if (GIVEN(o, temp) && o->temp == 0)
        setup_greedy(p, o);
    if (p->mirostat == 1)
        usage("--mirostat: 1 is not supported; 0 is off, 2 is Mirostat 2.0");
    p->ignore_eos = o->ignore_eos;
    if (GIVEN(o, dry_breakers))
        read_breakers(p, &o->dry_breakers);
    struct qn_error err;
    if (GIVEN(o, samplers) && qn_sampling_order(p, o->samplers, &err))
        usage("--samplers: %s", err.text);
    *bias = NULL;
    if (o->logit_bias.n) {
        *bias = xmalloc((size_t)o->logit_bias.n * sizeof **bias);
        for (int i = 0; i < o->logit_bias.n; i++)
            read_bias(&(*bias)[i], o->logit_bias.v[i], info.n_vocab);
        p->bias = *bias;
        p->n_bias = o->logit_bias.n;
    }
    return source;
}

/* ---- template variables */

const char *setup_think(const struct opts *o)
{
    return !strcmp(o->think, "auto") && setup_is_demo(o) ? "off" : o->think;
}

char *setup_kwargs(const struct opts *o, const char *think)
{
    char err[256];
    json_t *j = o->kwargs ? json_parse(o->kwargs, strlen(o->kwargs), err, sizeof err) : json_object();
    if (!j)
        usage("--kwargs: %s", err);
    if (!json_is_object(j))
        usage("--kwargs: not a JSON object");
    if (strcmp(think, "auto") && !json_object_get(j, "enable_thinking"))
        json_object_set_new(j, "enable_thinking", json_boolean(!strcmp(think, "on")));
    char *text = json_object_size(j) ? json_dump(j) : NULL;
    json_decref(j);
    return text;
}

/* The last tag in a rendered prompt: 1 = thinking is open, 0 = closed, -1 = there is none. */
static int think_state(const struct qn_text *t)
{
    int state = -1;
    for (const char *p = t->bytes; (p = strchr(p, '<')); p++)
        if (!strncmp(p, "<think>", 7))
            state = 1;
        else if (!strncmp(p, "</think>", 8))
            state = 0;
    return state;
}

bool setup_thinking(const qn_engine *e, const char *kwargs)
{
    struct qn_error err;
    struct qn_text plain, off;
    struct qn_render_args a = {
        .messages = "[{\"role\":\"user\",\"content\":\"x\"}]", .kwargs = kwargs, .add_generation_prompt = 1};
    if (qn_render(e, &a, &plain, &err))
        return false; /* the conversation itself will say what is wrong */
    int state = think_state(&plain);
    if (state < 0) {
        /* a template with a switch opens no tag itself: then its off form differs */
        a.kwargs = "{\"enable_thinking\":false}";
        if (!qn_render(e, &a, &off, &err)) {
            state = think_state(&off) >= 0;
            qn_text_free(&off);
        }
    }
    qn_text_free(&plain);
    return state > 0;
}
