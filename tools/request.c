/* SPDX-License-Identifier: MIT */
/* Reading a line of a batch: every key is checked for its type and against the range of the option of that name. */
#include "request.h"
#include "gen.h"
#include "io.h"
#include "setup.h"
#include "term.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off */
static const struct field {
    const char *key, *option;
    bool whole;
    size_t at; /* in struct qn_sampling: an int if whole, else a float */
} fields[] = {
#define F(key, option, whole, member) {key, option, whole, offsetof(struct qn_sampling, member)}
    F("temperature", "--temp", false, temperature),
    F("top_k", "--top-k", true, top_k),
    F("top_p", "--top-p", false, top_p),
    F("min_p", "--min-p", false, min_p),
    F("typical_p", "--typical", false, typical_p),
    F("top_n_sigma", "--top-n-sigma", false, top_n_sigma),
    F("xtc_probability", "--xtc-probability", false, xtc_probability),
    F("xtc_threshold", "--xtc-threshold", false, xtc_threshold),
    F("dry_multiplier", "--dry-multiplier", false, dry_multiplier),
    F("dry_base", "--dry-base", false, dry_base),
    F("dry_allowed_length", "--dry-allowed-length", true, dry_allowed_length),
    F("dry_penalty_last_n", "--dry-penalty-last-n", true, dry_penalty_last_n),
    F("repeat_last_n", "--repeat-last-n", true, penalty_last_n),
    F("repeat_penalty", "--repeat-penalty", false, repeat_penalty),
    F("presence_penalty", "--presence-penalty", false, presence_penalty),
    F("frequency_penalty", "--frequency-penalty", false, frequency_penalty),
    F("mirostat", "--mirostat", true, mirostat),
    F("mirostat_tau", "--mirostat-ent", false, mirostat_tau),
    F("mirostat_eta", "--mirostat-lr", false, mirostat_eta),
#undef F
};
static const char *const other_keys[] = {"id", "prompt", "messages", "tools", "max_tokens", "n_predict", "seed", "stop", "ignore_eos",
                                         "logit_bias", "samplers", "special", "think", "kwargs", "chat_template_kwargs"};
/* clang-format on */

static bool known_key(const char *key)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (!strcmp(fields[i].key, key))
            return true;
    for (size_t i = 0; i < sizeof other_keys / sizeof *other_keys; i++)
        if (!strcmp(other_keys[i], key))
            return true;
    return false;
}

static bool read_in_range(const json_t *v, const char *key, const char *option, bool whole, double *out, char *err,
                          size_t cap)
{
    const struct opt *row = opt_find(CMD_BATCH, option, strlen(option));
    if (whole ? !json_is_integer(v) : !json_is_number(v))
        return complain(err, cap, "%s is not a%s number", key, whole ? " whole" : "");
    *out = json_number_value(v);
    if (!(*out >= row->min && *out <= row->max))
        return complain(err, cap, "%s is %.10g, not within %.10g to %.10g", key, *out, row->min, row->max);
    return true;
}

static bool read_numbers(struct request *r, const struct opts *o, char *err, size_t cap)
{
    double x;
    const json_t *temperature = json_object_get(r->object, "temperature");
    if (json_is_number(temperature) && json_number_value(temperature) == 0)
        setup_greedy(&r->sampling, o);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const struct field *f = &fields[i];
        const json_t *v = json_object_get(r->object, f->key);
        if (!v || json_is_null(v))
            continue;
        if (!read_in_range(v, f->key, f->option, f->whole, &x, err, cap))
            return false;
        void *at = (char *)&r->sampling + f->at;
        if (f->whole)
            *(int *)at = (int)x;
        else
            *(float *)at = (float)x;
    }
    if (r->sampling.mirostat == 1)
        return complain(err, cap, "mirostat 1 is not supported; 0 is off, 2 is Mirostat 2.0");
    static const char *const limits[] = {"max_tokens", "n_predict"};
    for (int i = 0; i < 2; i++) {
        const json_t *v = json_object_get(r->object, limits[i]);
        if (!v || json_is_null(v))
            continue;
        if (!read_in_range(v, limits[i], "--predict", true, &x, err, cap))
            return false;
        r->n_max = (int)x;
    }
    const json_t *seed = json_object_get(r->object, "seed");
    if (seed && !json_is_null(seed)) {
        if (!json_is_integer(seed) || json_integer_value(seed) < -1)
            return complain(err, cap, "seed is not a whole number from 0 on, or -1 for the batch's own");
        if (json_integer_value(seed) >= 0)
            r->sampling.seed = (uint64_t)json_integer_value(seed);
    }
    return true;
}

static bool add_stop(struct request *r, const json_t *v)
{
    const char *s = json_string_value(v);
    if (!s || !*s || strlen(s) != json_string_length(v))
        return false;
    r->stop.v = xrealloc(r->stop.v, (size_t)(r->stop.n + 1) * sizeof *r->stop.v);
    r->stop.v[r->stop.n++] = s;
    return true;
}

/* Stop texts of the line come on top of those of the command line. */
static bool read_stop(struct request *r, const struct strings *general, char *err, size_t cap)
{
    json_t *v = json_object_get(r->object, "stop"), *item;
    size_t i;
    for (int s = 0; s < general->n; s++) {
        r->stop.v = xrealloc(r->stop.v, (size_t)(r->stop.n + 1) * sizeof *r->stop.v);
        r->stop.v[r->stop.n++] = general->v[s];
    }
    if (!v || json_is_null(v))
        return true;
    bool good = json_is_array(v) || add_stop(r, v);
    json_array_foreach(v, i, item) good = good && add_stop(r, item);
    return good ? true : complain(err, cap, "stop is neither a text nor an array of texts");
}

static bool add_bias(struct request *r, int n_vocab, const char *id, double bias, char *err, size_t cap)
{
    char *end;
    long v = strtol(id, &end, 10);
    if (end == id || *end || v < 0 || v >= n_vocab)
        return complain(err, cap, "logit_bias: '%.40s' is no id of the vocabulary of %d tokens", id, n_vocab);
    int n = r->sampling.n_bias;
    struct qn_logit_bias *list = xrealloc(r->bias, (size_t)(n + 1) * sizeof *list);
    if (!r->bias && n)
        memcpy(list, r->sampling.bias, (size_t)n * sizeof *list);
    list[n] = (struct qn_logit_bias){.id = (int32_t)v, .bias = (float)bias};
    r->bias = list;
    r->sampling.bias = list;
    r->sampling.n_bias = n + 1;
    return true;
}

/* {"ID": number, ...}; false as a number forbids the token. */
static bool read_bias(struct request *r, int n_vocab, char *err, size_t cap)
{
    json_t *j = json_object_get(r->object, "logit_bias"), *v;
    const char *key;
    if (!j || json_is_null(j))
        return true;
    if (!json_is_object(j))
        return complain(err, cap, "logit_bias is not an object of ids and numbers");
    json_object_foreach(j, key, v)
    {
        if (!json_is_number(v) && !json_is_false(v))
            return complain(err, cap, "logit_bias: the value of '%.40s' is neither a number nor false", key);
        if (!add_bias(r, n_vocab, key, json_is_number(v) ? json_number_value(v) : -INFINITY, err, cap))
            return false;
    }
    return true;
}

static bool read_flag(const json_t *object, const char *key, bool *out, char *err, size_t cap)
{
    const json_t *v = json_object_get(object, key);
    if (!v || json_is_null(v))
        return true;
    if (!json_is_boolean(v))
        return complain(err, cap, "%s is neither true nor false", key);
    *out = json_is_true(v);
    return true;
}

/* The template's variables of this line, malloc or NULL: the command line's with the line's own over them. */
static bool line_kwargs(const struct request *r, const struct request_base *base, char **out, bool *own, char *err,
                        size_t cap)
{
    static const char *const keys[] = {"kwargs", "chat_template_kwargs"};
    char why[256];
    bool think = false, good = true;
    json_t *all = base->kwargs ? json_parse(base->kwargs, strlen(base->kwargs), why, sizeof why) : json_object();
    *own = false;
    for (int i = 0; i < 2 && good; i++) {
        json_t *v = json_object_get(r->object, keys[i]);
        if (!v || json_is_null(v))
            continue;
        if (!json_is_object(v))
            good = complain(err, cap, "%s is not an object", keys[i]);
        else
            json_object_update(all, v);
        *own = true;
    }
    const json_t *t = json_object_get(r->object, "think");
    if (good && t && !json_is_null(t)) {
        good = read_flag(r->object, "think", &think, err, cap);
        json_object_set_new(all, "enable_thinking", json_boolean(think));
        *own = true;
    }
    *out = good && json_object_size(all) ? json_dump(all) : NULL;
    json_decref(all);
    return good;
}

/* How many ids the system message has by itself. */
static int system_ids(const struct request *r, const struct request_base *base, const json_t *messages,
                      const char *kwargs)
{
    struct qn_error e;
    struct qn_text text;
    int32_t *ids = NULL;
    int n = 0, keep = 0;
    json_t *first = json_array_get(messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    if (!role || strcmp(role, "system"))
        return 0;
    json_t *alone = json_pack("[O]", first);
    char *m = json_dump(alone);
    struct qn_render_args a = {.messages = m, .kwargs = kwargs};
    if (!qn_render(base->e, &a, &text, &e)) {
        if (!qn_tokenize(base->e, text.bytes, text.n, text.special, 0, &ids, &n, &e))
            keep = gen_agree(r->ids, r->n_ids, ids, n);
        qn_text_free(&text);
    }
    free(ids);
    free(m);
    json_decref(alone);
    return keep;
}

static bool read_messages(struct request *r, const struct request_base *base, json_t *messages, const char *kwargs,
                          char *err, size_t cap)
{
    struct qn_error e;
    struct qn_text text;
    json_t *tools = json_object_get(r->object, "tools");
    if (!json_is_array(messages))
        return complain(err, cap, "messages is not an array");
    if (tools && !json_is_null(tools) && !json_is_array(tools))
        return complain(err, cap, "tools is not an array");
    char *m = json_dump(messages), *t = json_is_array(tools) ? json_dump(tools) : NULL;
    struct qn_render_args a = {.messages = m, .tools = t, .kwargs = kwargs, .add_generation_prompt = 1};
    int rc = qn_render(base->e, &a, &text, &e);
    if (!rc) {
        rc = qn_tokenize(base->e, text.bytes, text.n, text.special, 0, &r->ids, &r->n_ids, &e);
        qn_text_free(&text);
    }
    free(m);
    free(t);
    if (!rc && request_shifts(base))
        r->keep = system_ids(r, base, messages, kwargs);
    return rc ? complain(err, cap, "%s", e.text) : true;
}

static bool read_prompt(struct request *r, const struct request_base *base, json_t *prompt, char *err, size_t cap)
{
    struct qn_error e;
    bool special = base->o->special;
    if (!json_is_string(prompt))
        return complain(err, cap, "prompt is not a text");
    if (!read_flag(r->object, "special", &special, err, cap))
        return false;
    if (qn_tokenize(base->e, json_string_value(prompt), json_string_length(prompt), NULL,
                    QN_TOK_BOS | (special ? QN_TOK_SPECIAL : 0), &r->ids, &r->n_ids, &e))
        return complain(err, cap, "%s", e.text);
    return true;
}

bool request_shifts(const struct request_base *base) { return CHOICE(base->o, on_full) == FULL_SHIFT; }

/* A prompt that is too long is shifted, or refused. */
static bool fit_ids(struct request *r, const struct request_base *base, char *err, size_t cap)
{
    int n_ctx = base->info.n_ctx, room = request_shifts(base) && base->most < n_ctx ? base->most : n_ctx;
    if (!r->keep && base->info.id_bos >= 0 && r->ids[0] == base->info.id_bos)
        r->keep = 1;
    if (base->o->n_keep >= 0)
        r->keep = base->o->n_keep < r->n_ids ? base->o->n_keep : r->n_ids;
    r->n_prompt = r->n_ids;
    if (r->n_ids <= room)
        return true;
    if (!request_shifts(base))
        return complain(err, cap, "the prompt has %d tokens, the context holds %d", r->n_ids, n_ctx);
    int out = gen_shift(r->n_ids, &r->keep, room);
    gen_cut(r->ids, &r->n_ids, r->keep, out);
    return true;
}

/* The prompt's ids, and the sampling defaults that belong to its kind. */
static bool read_text(struct request *r, const struct request_base *base, char *err, size_t cap)
{
    json_t *prompt = json_object_get(r->object, "prompt"), *messages = json_object_get(r->object, "messages");
    if (!prompt == !messages)
        return complain(err, cap, prompt ? "both prompt and messages" : "neither prompt nor messages");
    bool thinking = false, good;
    if (messages) {
        char *kwargs;
        bool own;
        if (!line_kwargs(r, base, &kwargs, &own, err, cap))
            return false;
        thinking = own ? setup_thinking(base->e, kwargs) : base->thinking;
        good = read_messages(r, base, messages, kwargs, err, cap);
        free(kwargs);
    } else {
        good = read_prompt(r, base, prompt, err, cap);
    }
    r->sampling = base->sampling[thinking];
    if (good && !r->n_ids)
        return complain(err, cap, "the prompt has no tokens");
    return good && fit_ids(r, base, err, cap);
}

static bool read_samplers(struct request *r, char *err, size_t cap)
{
    const json_t *v = json_object_get(r->object, "samplers");
    struct qn_error e;
    if (!v || json_is_null(v))
        return true;
    if (!json_is_string(v))
        return complain(err, cap, "samplers is not a text");
    return qn_sampling_order(&r->sampling, json_string_value(v), &e) ? complain(err, cap, "%s", e.text) : true;
}

bool request_parse(struct request *r, const struct request_base *base, const char *line, size_t n, int index, char *err,
                   size_t cap)
{
    const char *key;
    json_t *v;
    bool ignore = base->o->ignore_eos;
    *r = (struct request){.n_max = base->o->n_predict};
    if (strspn(line, " \t\r") >= n)
        return complain(err, cap, "the line is empty");
    r->object = json_parse(line, n, err, cap);
    if (!r->object)
        return false;
    if (!json_is_object(r->object))
        return complain(err, cap, "the line is not a JSON object");
    r->id = json_object_get(r->object, "id");
    json_object_foreach(r->object, key, v) if (!known_key(key))
        say("%s: line %d: key '%.40s' is not known and has no effect", base->o->input, index + 1, key);
    if (!read_text(r, base, err, cap))
        return false;
    r->sampling.stream = (uint64_t)index;
    if (!read_numbers(r, base->o, err, cap) || !read_stop(r, &base->o->stop, err, cap) || !read_samplers(r, err, cap) ||
        !read_flag(r->object, "ignore_eos", &ignore, err, cap))
        return false;
    r->sampling.ignore_eos = ignore;
    return read_bias(r, base->info.n_vocab, err, cap);
}

void request_free(struct request *r)
{
    json_decref(r->object);
    free(r->ids);
    free(r->bias);
    free(r->stop.v);
    *r = (struct request){0};
}
