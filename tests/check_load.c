/* SPDX-License-Identifier: MIT */
/* Opening models that are wrong: keys and tensors that are missing, absurd or contradict each other, options out of range,
 * contexts larger than memory, weights that are not numbers.  Each is refused with one line that names the file, the key or
 * tensor and the values, and leaves nothing behind. */
#include "eval.h"
#include "ggufedit.h"
#include "hashmodel.h"
#include "quant/quant.h"
#include "quern.h"
#include "testing.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { VOCAB = 512 };

static struct qn_options options(const char *file)
{
    return (struct qn_options){.model = file, .n_threads = 1, .n_ctx = 64, .n_ubatch = 16, .no_numa = 1};
}

/* The text has every part of says (separated by '|'), is one line, and fits the code. */
static void check_error(const char *what, const struct qn_error *err, int got, int want, const char *says)
{
    char parts[512], *save = NULL;
    snprintf(parts, sizeof parts, "%s", says);
    if (got != want || err->code != want)
        fail_msg("%s: code %d (%d), not %d: %s", what, got, err->code, want, err->text);
    if (!err->text[0] || strchr(err->text, '\n'))
        fail_msg("%s: not one line: \"%s\"", what, err->text);
    for (char *part = strtok_r(parts, "|", &save); part; part = strtok_r(NULL, "|", &save))
        if (!strstr(err->text, part))
            fail_msg("%s: \"%s\" does not say \"%s\"", what, err->text, part);
}

static void expect_refusal(const char *what, const struct qn_options *o, int code, const char *says)
{
    struct qn_error err = {0};
    qn_engine *e = (qn_engine *)(uintptr_t)1;
    int got = qn_open(&e, o, &err);
    if (got == 0)
        fail_msg("%s: was opened", what);
    assert_null(e);
    check_error(what, &err, got, code, says);
}

/* ---- keys and tensors */

struct refusal {
    const char *model, *commands; /* see edit_apply() */
    int code;
    const char *says; /* parts, besides the name of the file */
};

#define F QN_E_FORMAT
#define U QN_E_UNSUPPORTED
/* clang-format off */
static const struct refusal refusals[] = {
    /* architecture */
    {"llama", "nokey general.architecture", F, "general.architecture|missing"},
    {"llama", "str general.architecture gpt-oss", U, "\"gpt-oss\"|llama|qwen35moe"},
    {"llama", "str general.architecture", U, "architecture \"\""},
    {"llama", "u32 general.architecture 3", F, "general.architecture|u32|string"},
    {"llama", "u32 general.name 3", F, "general.name|u32"},
    /* sizes */
    {"llama", "nokey llama.block_count", F, "llama.block_count is missing"},
    {"llama", "u32 llama.block_count 0", F, "llama.block_count is 0|1..4096"},
    {"llama", "u32 llama.block_count 3", F, "blk.2.attn_norm.weight is missing"},
    {"llama", "u32 llama.block_count 1", U, "blk.1."},
    {"llama", "u32 llama.block_count 4000000000", F, "llama.block_count is 4000000000"},
    {"llama", "str llama.block_count 4", F, "llama.block_count is of type string, not an integer"},
    {"llama", "f32 llama.block_count 2", F, "llama.block_count is of type f32"},
    {"llama", "nokey llama.context_length", F, "llama.context_length is missing"},
    {"llama", "u32 llama.context_length 0", F, "llama.context_length is 0"},
    {"llama", "u32 llama.context_length 4294967295", F, "llama.context_length is 4294967295"},
    {"llama", "nokey llama.embedding_length", F, "llama.embedding_length is missing"},
    {"llama", "u32 llama.embedding_length 0", F, "llama.embedding_length is 0"},
    {"llama", "u32 llama.embedding_length 128", F, "token_embd.weight|256|128"},
    {"llama", "u32 llama.embedding_length 255", U, "embedding_length 255"},
    {"llama", "u32 llama.embedding_length 4294967295", F, "llama.embedding_length is 4294967295"},
    {"llama", "nokey llama.feed_forward_length", F, "llama.feed_forward_length is missing"},
    {"llama", "u32 llama.feed_forward_length 0", F, "llama.feed_forward_length is 0"},
    {"llama", "u32 llama.feed_forward_length 511", F, "blk.0.ffn_gate.weight|512|511"},
    {"llama", "u32 llama.expert_count 8", U, "llama.expert_count is 8"},
    {"llama", "nokey llama.attention.layer_norm_rms_epsilon", F, "llama.attention.layer_norm_rms_epsilon is missing"},
    {"llama", "f32 llama.attention.layer_norm_rms_epsilon 0", F, "layer_norm_rms_epsilon is 0"},
    {"llama", "f32 llama.attention.layer_norm_rms_epsilon -1e-6", F, "layer_norm_rms_epsilon is -1e-06"},
    {"llama", "f32 llama.attention.layer_norm_rms_epsilon nan", F, "layer_norm_rms_epsilon is nan"},
    {"llama", "f32 llama.attention.layer_norm_rms_epsilon inf", F, "layer_norm_rms_epsilon is inf"},
    {"llama", "f32 llama.attention.layer_norm_rms_epsilon 2", F, "layer_norm_rms_epsilon is 2"},
    /* heads */
    {"llama", "nokey llama.attention.head_count", F, "llama.attention.head_count is missing"},
    {"llama", "u32 llama.attention.head_count 0", F, "llama.attention.head_count is 0"},
    {"llama", "u32 llama.attention.head_count 4294967295", F, "llama.attention.head_count is 4294967295"},
    {"llama", "u32 llama.attention.head_count 6", F, "blk.0.attn_q.weight|256|384"},
    {"llama", "u32 llama.attention.head_count_kv 0", F, "llama.attention.head_count_kv is 0"},
    {"llama", "u32 llama.attention.head_count_kv 3", F, "head_count 4|head_count_kv 3"},
    {"llama", "u32 llama.attention.head_count_kv 8", F, "head_count 4|head_count_kv 8"},
    {"llama", "u32 llama.attention.head_count_kv 4", F, "blk.0.attn_k.weight|128|256"},
    {"llama", "u32 llama.attention.key_length 0", F, "llama.attention.key_length is 0"},
    {"llama", "u32 llama.attention.key_length 1", U, "key_length is 1|value_length 64"},
    {"llama", "u32 llama.attention.key_length 63;u32 llama.attention.value_length 63", U, "head size 63"},
    {"llama", "u32 llama.attention.key_length 1024;u32 llama.attention.value_length 1024", U, "head size 1024"},
    {"llama", "u32 llama.attention.key_length 4294967295", F, "llama.attention.key_length is 4294967295"},
    {"llama", "u32 llama.attention.value_length 32", U, "key_length is 64|value_length 32"},
    {"qwen2", "u32 qwen2.attention.head_count 3", U, "head size 85"},
    /* rope */
    {"llama", "u32 llama.rope.dimension_count 0", F, "llama.rope.dimension_count is 0"},
    {"llama", "u32 llama.rope.dimension_count 63", F, "rope.dimension_count 63 is odd"},
    {"llama", "u32 llama.rope.dimension_count 66", F, "llama.rope.dimension_count is 66|2..64"},
    {"llama", "u32 llama.rope.dimension_count 32", F, "rope_freqs.weight|32|16"},
    {"qwen35", "nokey qwen35.rope.dimension_count", F, "qwen35.rope.dimension_count is missing"},
    {"qwen3", "nokey qwen3.rope.freq_base", F, "qwen3.rope.freq_base is missing"},
    {"llama", "f32 llama.rope.freq_base nan", F, "llama.rope.freq_base is nan"},
    {"llama", "f32 llama.rope.freq_base inf", F, "llama.rope.freq_base is inf"},
    {"llama", "f32 llama.rope.freq_base 0", F, "rope.freq_base is 0"},
    {"llama", "f32 llama.rope.freq_base -10000", F, "rope.freq_base is -10000"},
    {"llama", "str llama.rope.scaling.type longrope", U, "llama.rope.scaling.type is \"longrope\"|yarn"},
    {"llama", "str llama.rope.scaling.type", U, "llama.rope.scaling.type is \"\""},
    {"llama", "u32 llama.rope.scaling.type 1", F, "llama.rope.scaling.type"},
    {"llama", "str llama.rope.scaling.type linear;f32 llama.rope.scaling.factor 0", F, "rope.scaling.factor is 0"},
    {"llama", "str llama.rope.scaling.type linear;f32 llama.rope.scaling.factor -2", F, "rope.scaling.factor is -2"},
    {"llama", "str llama.rope.scaling.type linear;f32 llama.rope.scaling.factor nan", F, "rope.scaling.factor is nan"},
    {"llama", "str llama.rope.scaling.type yarn;f32 llama.rope.scaling.factor 4;u32 llama.rope.scaling.original_context_length 0", F,
        "original_context_length is 0"},
    {"llama", "str llama.rope.scaling.type yarn;f32 llama.rope.scaling.factor 4;f32 llama.rope.scaling.yarn_beta_fast 0", F,
        "yarn_beta_fast is 0"},
    {"llama", "str llama.rope.scaling.type yarn;f32 llama.rope.scaling.factor 4;f32 llama.rope.scaling.yarn_beta_slow -1", F,
        "yarn_beta_slow is -1"},
    {"llama", "str llama.rope.scaling.type yarn;f32 llama.rope.scaling.factor 4;f32 llama.rope.freq_base 1", F, "freq_base is 1"},
    /* keys that change the result and that we do not compute */
    {"llama", "u32 llama.attention.sliding_window 4096", U, "llama.attention.sliding_window is 4096"},
    {"llama", "f32 llama.attention.scale 0.5", U, "llama.attention.scale is 0.5"},
    {"llama", "f32 llama.attention.max_alibi_bias 8", U, "llama.attention.max_alibi_bias is 8"},
    {"llama", "f32 llama.attention.clamp_kqv 8", U, "llama.attention.clamp_kqv is 8"},
    {"llama", "f32 llama.attn_logit_softcapping 50", U, "llama.attn_logit_softcapping is 50"},
    {"llama", "f32 llama.final_logit_softcapping 30", U, "llama.final_logit_softcapping is 30"},
    {"llama", "f32 llama.logit_scale 0.0625", U, "llama.logit_scale is 0.0625"},
    {"llama", "f32 llama.residual_scale 0.22", U, "llama.residual_scale is 0.22"},
    {"llama", "f32 llama.embedding_scale 12", U, "llama.embedding_scale is 12"},
    {"llama", "f32 llama.rope.scale_linear 4", U, "llama.rope.scale_linear is 4"},
    {"llama", "f32 llama.rope.scaling.attn_factor 1.2", U, "llama.rope.scaling.attn_factor is 1.2"},
    {"llama", "f32 llama.rope.scaling.yarn_attn_factor 1.2", U, "llama.rope.scaling.yarn_attn_factor is 1.2"},
    {"llama", "f32 llama.rope.scaling.yarn_log_multiplier 0.1", U, "llama.rope.scaling.yarn_log_multiplier is 0.1"},
    {"llama", "f32 llama.logit_scale nan", F, "llama.logit_scale is nan"},
    {"llama", "str llama.logit_scale one", F, "llama.logit_scale is of type string"},
    {"qwen3moe", "u32 qwen3moe.expert_gating_func 2", U, "qwen3moe.expert_gating_func is 2"},
    {"qwen3moe", "u32 qwen3moe.expert_group_count 4", U, "qwen3moe.expert_group_count is 4"},
    {"qwen3moe", "f32 qwen3moe.expert_weights_scale 2.5", U, "qwen3moe.expert_weights_scale is 2.5"},
    {"qwen3moe", "u32 qwen3moe.leading_dense_block_count 1", U, "qwen3moe.leading_dense_block_count is 1"},
    /* experts */
    {"qwen35moe", "nokey qwen35moe.expert_count", F, "qwen35moe.expert_count is missing"},
    {"qwen35moe", "u32 qwen35moe.expert_count 0", F, "qwen35moe.expert_count is 0"},
    {"qwen35moe", "u32 qwen35moe.expert_count 9", F, "blk.0.ffn_gate_inp.weight|4|9"},
    {"qwen35moe", "u32 qwen35moe.expert_count 4294967295", F, "qwen35moe.expert_count is 4294967295"},
    {"qwen35moe", "u32 qwen35moe.expert_used_count 0", F, "qwen35moe.expert_used_count is 0"},
    {"qwen35moe", "u32 qwen35moe.expert_used_count 9", F, "expert_used_count 9|expert_count 4"},
    {"qwen35moe", "nokey qwen35moe.expert_feed_forward_length", F, "qwen35moe.expert_feed_forward_length is missing"},
    {"qwen35moe", "u32 qwen35moe.expert_feed_forward_length 128", F, "ffn_gate_exps.weight|256|128"},
    {"qwen35moe", "u32 qwen35moe.expert_shared_feed_forward_length 512", F, "ffn_gate_shexp.weight|256|512"},
    {"qwen35moe", "nokey qwen35moe.expert_shared_feed_forward_length", U, "shexp.weight is not part of"},
    {"qwen35moe", "ne blk.0.ffn_down_exps.weight 256 256 7", F, "blk.0.ffn_down_exps.weight|[256, 256, 7, 1]|[256, 256, 4, 1]"},
    {"qwen35moe", "ne blk.0.ffn_up_exps.weight 256 256 2 2", F, "blk.0.ffn_up_exps.weight|[256, 256, 2, 2]|[256, 256, 4, 1]"},
    /* delta-net */
    {"qwen35moe", "nokey qwen35moe.ssm.conv_kernel", F, "qwen35moe.ssm.conv_kernel is missing"},
    {"qwen35moe", "u32 qwen35moe.ssm.conv_kernel 1", F, "qwen35moe.ssm.conv_kernel is 1"},
    {"qwen35moe", "u32 qwen35moe.ssm.conv_kernel 9", F, "qwen35moe.ssm.conv_kernel is 9"},
    {"qwen35moe", "u32 qwen35moe.ssm.conv_kernel 3", F, "blk.0.ssm_conv1d.weight|4|3"},
    {"qwen35moe", "u32 qwen35moe.ssm.state_size 0", F, "qwen35moe.ssm.state_size is 0"},
    {"qwen35moe", "u32 qwen35moe.ssm.state_size 129", U, "ssm.state_size 129"},
    {"qwen35moe", "u32 qwen35moe.ssm.state_size 512", U, "ssm.state_size 512"},
    {"qwen35moe", "u32 qwen35moe.ssm.state_size 64", F, "ssm.inner_size is 768|384"},
    {"qwen35moe", "u32 qwen35moe.ssm.inner_size 0", F, "qwen35moe.ssm.inner_size is 0"},
    {"qwen35moe", "u32 qwen35moe.ssm.inner_size 4294967295", F, "qwen35moe.ssm.inner_size is 4294967295"},
    {"qwen35moe", "u32 qwen35moe.ssm.group_count 0", F, "qwen35moe.ssm.group_count is 0"},
    {"qwen35moe", "u32 qwen35moe.ssm.group_count 4", F, "time_step_rank 6|group_count 4"},
    {"qwen35moe", "u32 qwen35moe.ssm.group_count 3", F, "attn_qkv.weight|1280|1536"},
    {"qwen35moe", "u32 qwen35moe.ssm.time_step_rank 0", F, "qwen35moe.ssm.time_step_rank is 0"},
    {"qwen35moe", "u32 qwen35moe.ssm.time_step_rank 65536;u32 qwen35moe.ssm.inner_size 8388608", F, "blk.0.attn_qkv.weight"},
    {"qwen35moe", "u32 qwen35moe.full_attention_interval 0", F, "qwen35moe.full_attention_interval is 0"},
    {"qwen35moe", "u32 qwen35moe.full_attention_interval 1", F, "blk.0.attn_q.weight is missing"},
    {"qwen35moe", "u32 qwen35moe.full_attention_interval 3", F, "blk.1.attn_qkv.weight is missing"},
    {"qwen35moe", "u32 qwen35moe.attention.recurrent_layers 1", F, "qwen35moe.attention.recurrent_layers"},
    /* nextn */
    {"qwen35-mtp", "u32 qwen35.nextn_predict_layers 3", F, "nextn_predict_layers is 3|block_count 3"},
    {"qwen35-mtp", "u32 qwen35.nextn_predict_layers 4294967295", F, "qwen35.nextn_predict_layers is 4294967295"},
    {"qwen35-mtp", "u32 qwen35.nextn_predict_layers 0;u32 qwen35.full_attention_interval 3", F, "is missing"},
    {"qwen35-mtp", "u32 qwen35.nextn_predict_layers 2", F, "blk.1.nextn.eh_proj.weight is missing"},
    {"qwen35-mtp", "ne blk.2.nextn.eh_proj.weight 256 256", F, "blk.2.nextn.eh_proj.weight|[256, 256, 1, 1]|[512, 256, 1, 1]"},
    /* tensors */
    {"llama", "add blk.0.attn_output.bias 256", U, "blk.0.attn_output.bias|llama"},
    {"llama", "add blk.7.attn_norm.weight 256", U, "blk.7.attn_norm.weight"},
    {"llama", "add extra 1", U, "tensor extra"},
    {"llama", "rename blk.0.attn_q.weight blk.0.attn_Q.weight", F, "blk.0.attn_q.weight is missing"},
    {"llama", "ne token_embd.weight 256 500;drop output.weight", F, "tokenizer.ggml.tokens|512|500"},
    {"llama", "ne token_embd.weight 256 512 2", F, "token_embd.weight|[256, 512, 2, 1]"},
    {"llama", "ne output.weight 256 500", F, "output.weight|500|512"},
    {"llama", "ne output_norm.weight 255", F, "output_norm.weight|255|256"},
    {"llama", "ne output_norm.weight 256 2", F, "output_norm.weight|[256, 2, 1, 1]|[256, 1, 1, 1]"},
    {"llama", "ne rope_freqs.weight 31", F, "rope_freqs.weight|31|32"},
    {"llama", "type output_norm.weight Q8_0", U, "output_norm.weight|Q8_0|F32"},
    {"llama", "type blk.1.ffn_norm.weight Q4_K", U, "blk.1.ffn_norm.weight|Q4_K|F32"},
    {"qwen2", "ne blk.0.attn_q.bias 128", F, "blk.0.attn_q.bias|128|256"},
    {"qwen35", "ne blk.1.attn_q.weight 256 512", F, "blk.1.attn_q.weight|512|1024"},
    {"qwen35", "type blk.0.ssm_a Q8_0", F, "blk.0.ssm_a|blocks of 32"},
    {"qwen3next", "ne blk.0.ssm_ba.weight 256 11", F, "blk.0.ssm_ba.weight|11|12"},
};
/* clang-format on */
#undef F
#undef U

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refusal *r = &refusals[i];
        struct edit *e = edit_model(r->model, "f32");
        edit_apply(e, r->commands);
        const char *path = test_tmp("refused.gguf");
        edit_write(e, path, false);
        edit_free(e);
        struct qn_options o = options(path);
        char what[512], says[512];
        snprintf(what, sizeof what, "%s: %s", r->model, r->commands);
        snprintf(says, sizeof says, "refused.gguf|%s", r->says);
        expect_refusal(what, &o, r->code, says);
    }
}

/* Every tensor is needed, but those that a file may leave out, and every one has a shape. */
static bool may_be_absent(const char *model, const char *tensor)
{
    return !strcmp(tensor, "output.weight") || !strcmp(tensor, "rope_freqs.weight");
}

static void test_every_tensor(void **state)
{
    const char *model = *state, *path = test_tmp("tensor.gguf");
    struct qn_options o = options(path);
    struct edit *whole = edit_model(model, "f32");
    for (int i = 0; i < whole->n_tensors; i++) {
        const struct edit_tensor *t = &whole->tensor[i];
        char what[256], says[256];
        snprintf(what, sizeof what, "%s without %s", model, t->name);
        snprintf(says, sizeof says, "tensor.gguf|tensor %s is missing", t->name);
        struct edit *e = edit_model(model, "f32");
        edit_drop(e, t->name);
        edit_write(e, path, false);
        edit_free(e);
        if (may_be_absent(model, t->name)) {
            struct qn_error err;
            qn_engine *engine;
            if (qn_open(&engine, &o, &err))
                fail_msg("%s: %s", what, err.text);
            qn_close(engine);
        } else {
            expect_refusal(what, &o, QN_E_FORMAT, says);
        }
        for (int d = 0; d < t->n_dims; d++) {
            uint64_t ne[4];
            memcpy(ne, t->ne, sizeof ne);
            ne[d]++;
            e = edit_model(model, "f32");
            edit_reshape(e, edit_get(e, t->name), ne, t->n_dims);
            edit_write(e, path, false);
            edit_free(e);
            snprintf(what, sizeof what, "%s: %s: dimension %d is %d", model, t->name, d, (int)ne[d]);
            snprintf(says, sizeof says, "tensor.gguf|%s|%d|%d", t->name, (int)ne[d], (int)ne[d] - 1);
            if (strcmp(t->name, "token_embd.weight") != 0 || d == 0)
                expect_refusal(what, &o, QN_E_FORMAT, says);
        }
    }
    edit_free(whole);
}

/* ---- options */

static const char *plain_file(void)
{
    static char path[256];
    if (!path[0]) {
        struct edit *e = edit_model("qwen35moe", "Q8_0");
        snprintf(path, sizeof path, "%s", test_tmp("plain.gguf"));
        edit_write(e, path, true);
        edit_free(e);
    }
    return path;
}

static void test_options(void **state)
{
    (void)state;
    const char *file = plain_file();
    /* clang-format off */
    const struct {
        struct qn_options o;
        int code;
        const char *says;
    } bad[] = {
        {{.model = NULL}, QN_E_ARGUMENT, "no model"},
        {{.model = "/nowhere/at/all.gguf"}, QN_E_IO, "/nowhere/at/all.gguf"},
        {{.model = "/"}, QN_E_IO, "/"},
        {{.model = "/dev/null"}, QN_E_IO, "/dev/null"},
        {{.n_threads = -1}, QN_E_ARGUMENT, "threads is -1|1024"},
        {{.n_threads = 1025}, QN_E_ARGUMENT, "threads is 1025|1024"},
        {{.n_threads_batch = 1025}, QN_E_ARGUMENT, "batch threads is 1025"},
        {{.n_ctx = -1}, QN_E_ARGUMENT, "context size is -1"},
        {{.n_ctx = INT32_MAX}, QN_E_ARGUMENT, "context size is 2147483647"},
        {{.n_seq = -1}, QN_E_ARGUMENT, "sequences is -1|1024"},
        {{.n_seq = 1025}, QN_E_ARGUMENT, "sequences is 1025"},
        {{.n_ubatch = -1}, QN_E_ARGUMENT, "micro-batch size is -1|8192"},
        {{.n_ubatch = 8193}, QN_E_ARGUMENT, "micro-batch size is 8193"},
        {{.type_k = (enum qn_kv_type)7}, QN_E_ARGUMENT, "type of keys is 7"},
        {{.type_v = (enum qn_kv_type)-1}, QN_E_ARGUMENT, "type of values is -1"},
        {{.delta = (enum qn_delta_form)2}, QN_E_ARGUMENT, "delta rule is 2"},
        {{.isa = "sse9"}, QN_E_ARGUMENT, "\"sse9\"|auto| c"},
        {{.isa = ""}, QN_E_ARGUMENT, "\"\"|auto| c"},
        {{.pre = "nonsense"}, QN_E_ARGUMENT, "nonsense|qwen2"},
        {{.rope_scaling = "ntk"}, QN_E_ARGUMENT, "\"ntk\"|yarn"},
        {{.rope_freq_base = -1}, QN_E_ARGUMENT, "-1"},
        {{.rope_freq_base = NAN}, QN_E_ARGUMENT, "nan"},
        {{.rope_scale = -2}, QN_E_ARGUMENT, "-2"},
        {{.rope_scale = INFINITY}, QN_E_ARGUMENT, "inf"},
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char what[64];
        struct qn_options o = bad[i].o;
        snprintf(what, sizeof what, "options %zu (%s)", i, bad[i].says);
        if (i > 0 && !o.model)
            o.model = file;
        expect_refusal(what, &o, bad[i].code, bad[i].says);
    }
}

static long status_kib(const char *key)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    long v = 0;
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key)))
            v = strtol(line + strlen(key) + 1, NULL, 10);
    if (f)
        fclose(f);
    return v;
}

static void eval_some(qn_engine *e, qn_seq *s)
{
    static const int32_t ids[] = {5, 6, 7, 8, 9, 1, 2, 3, 4};
    float logits[VOCAB];
    eval_spans(e, &(struct qn_span){s, ids, 9, QN_LOGITS_LAST}, 1, logits);
}

/* Memory in use while a sequence of a few tokens lives. */
static long resident_kib(const struct qn_options *o)
{
    struct qn_error err;
    qn_engine *e = eval_open(o);
    qn_seq *s = eval_seq(e);
    assert_int_equal(qn_seq_reserve(s, 64, &err), 0);
    eval_some(e, s);
    long kib = status_kib("VmRSS:");
    qn_seq_free(s);
    qn_close(e);
    return kib;
}

static void keep_log(void *cookie, enum qn_log_level level, const char *line)
{
    if (strstr(line, "positions"))
        snprintf(cookie, 400, "%s", line);
}

/* A context beyond memory is only address space; what fits of it is said, and is what a sequence can be promised. */
static void test_memory(void **state)
{
    (void)state;
    struct qn_options o = options(plain_file());
    struct qn_error err;
    struct qn_model_info info;
    struct qn_memory_info before, after;
    char said[400] = "";
    qn_seq *s;
    o.n_ctx = 1 << 30;
    o.n_seq = 1024;
    o.type_k = o.type_v = QN_KV_F32;
    struct qn_options small = o;
    small.n_ctx = 64;
    resident_kib(&small); /* by then threads and caches are there */
    long more = resident_kib(&o) - resident_kib(&small);
    print_message("%ld KiB more for a context of 2^30\n", more);
#ifndef TEST_KEEPS_FREED
    assert_true(more < 16384); /* tables of it, touched, would be at least 72 MiB */
#endif
    o.log = keep_log;
    o.cookie = said;
    qn_engine *e = eval_open(&o);
    print_message("%s\n", said);
    assert_non_null(strstr(said, "plain.gguf: the context has 1073741824 positions, memory has room for "));
    qn_memory_info(e, &before);
    s = eval_seq(e);
    int fits = qn_seq_fits(s);
    char says[64];
    snprintf(says, sizeof says, "1073741824 tokens|%d would fit", fits);
    assert_true(fits > 0 && fits < o.n_ctx);
    check_error("reserve 2^30", &err, qn_seq_reserve(s, o.n_ctx, &err), QN_E_MEMORY, says);
    check_error("reserve one more", &err, qn_seq_reserve(s, fits + 1, &err), QN_E_MEMORY, "would fit");
    assert_int_equal(qn_seq_reserve(s, fits, &err), 0);
    qn_memory_info(e, &after);
    assert_true(after.promised > before.promised && after.promised <= after.budget && after.used == before.used);
    check_error("reserve 2^30 + 1", &err, qn_seq_reserve(s, o.n_ctx + 1, &err), QN_E_NOSPACE, "1073741825|1073741824");
    check_error("reserve -1", &err, qn_seq_reserve(s, -1, &err), QN_E_ARGUMENT, "-1");
    qn_seq_free(s);
    qn_close(e);
    said[0] = 0;
    o.n_ctx = o.n_seq = 0;
    e = eval_open(&o);
    qn_model_info(e, &info);
    assert_int_equal(info.n_ctx, info.n_ctx_train);
    assert_string_equal(said, "");
    qn_close(e);
}

static int stop_at(void *cookie, const char *what, double share)
{
    int *calls = cookie;
    assert_non_null(what);
    assert_true(share >= 0.0 && share <= 1.0);
    return --*calls == 0;
}

static void test_cancel(void **state)
{
    (void)state;
    struct qn_options o = options(plain_file());
    int calls = 1;
    o.progress = stop_at;
    o.cookie = &calls;
    expect_refusal("cancelled at the first call", &o, QN_E_CANCELLED, "plain.gguf|cancel");
    calls = 3;
    o.n_threads = 3;
    expect_refusal("cancelled at the third call", &o, QN_E_CANCELLED, "plain.gguf|cancel");
    calls = 0;
    qn_close(eval_open(&o));
    assert_true(calls < -3);
}

static void test_vocab_only(void **state)
{
    (void)state;
    struct qn_options o = options(test_tmp("vocab.gguf"));
    struct qn_error err = {0};
    struct edit *edit = edit_model("qwen35moe", "f32");
    edit_apply(edit, "u32 qwen35moe.block_count 0;nokey qwen35moe.expert_count"); /* not looked at */
    size_t header = edit_write(edit, o.model, false);
    edit_free(edit);
    assert_int_equal(truncate(o.model, (off_t)header), 0);
    expect_refusal("truncated behind its header", &o, QN_E_FORMAT, "vocab.gguf|truncated");
    o.vocab_only = 1;
    qn_engine *e = eval_open(&o);
    qn_seq *s;
    int32_t id = 0, *ids = NULL;
    float logits[VOCAB];
    int n = 0;
    struct qn_span sp = {.ids = &id, .n = 1, .logits = QN_LOGITS_LAST};
    check_error("new sequence", &err, qn_seq_new(&s, e, &err), QN_E_ARGUMENT, "vocabulary only");
    assert_null(s);
    check_error("eval", &err, qn_eval(e, &sp, 1, logits, &err), QN_E_ARGUMENT, "vocabulary only");
    assert_int_equal(qn_tokenize(e, "hello", 5, NULL, 0, &ids, &n, &err), 0);
    assert_true(n > 0);
    struct qn_model_info info;
    qn_model_info(e, &info);
    assert_int_equal(info.n_vocab, VOCAB);
    assert_non_null(info.arch);
    free(ids);
    qn_close(e);
}

/* ---- calls */

static void test_eval(void **state)
{
    (void)state;
    struct qn_options o = options(plain_file());
    struct qn_error err = {0};
    o.n_seq = 2;
    qn_engine *e = eval_open(&o), *other = eval_open(&o);
    qn_seq *a = eval_seq(e), *b = eval_seq(e), *c, *foreign = eval_seq(other);
    check_error("third of two", &err, qn_seq_new(&c, e, &err), QN_E_NOSPACE, "2 sequences");
    assert_null(c);
    int32_t ids[80] = {0}, bad_id[2] = {1, -1}, big_id[2] = {1, VOCAB};
    float logits[2][VOCAB], again[VOCAB];
    const struct {
        struct qn_span sp[2];
        int n;
        float *logits;
        int code;
        const char *says;
    } bad[] = {
        {{{a, bad_id, 2, QN_LOGITS_LAST}}, 1, logits[0], QN_E_ARGUMENT, "-1|512"},
        {{{a, big_id, 2, QN_LOGITS_LAST}}, 1, logits[0], QN_E_ARGUMENT, "512"},
        {{{a, ids, 0, QN_LOGITS_LAST}}, 1, logits[0], QN_E_ARGUMENT, "span 0"},
        {{{a, ids, -5, QN_LOGITS_LAST}}, 1, logits[0], QN_E_ARGUMENT, "span 0"},
        {{{a, NULL, 1, QN_LOGITS_LAST}}, 1, logits[0], QN_E_ARGUMENT, "span 0"},
        {{{a, ids, 1, QN_LOGITS_LAST}}, 1, NULL, QN_E_ARGUMENT, "span 0"},
        {{{a, ids, 1, (enum qn_logits)9}}, 1, logits[0], QN_E_ARGUMENT, "span 0|9"},
        {{{NULL, ids, 1, QN_LOGITS_LAST}}, 1, logits[0], QN_E_ARGUMENT, "span 0"},
        {{{foreign, ids, 1, QN_LOGITS_LAST}}, 1, logits[0], QN_E_ARGUMENT, "span 0"},
        {{{a, ids, 1, QN_LOGITS_LAST}, {a, ids, 1, QN_LOGITS_LAST}}, 2, logits[0], QN_E_ARGUMENT, "span 1"},
        {{{a, ids, 65, QN_LOGITS_LAST}}, 1, logits[0], QN_E_NOSPACE, "65|64"},
        {{{a, ids, INT32_MAX, QN_LOGITS_LAST}}, 1, logits[0], QN_E_NOSPACE, "2147483647|64"},
        {{{b, ids, 3, QN_LOGITS_LAST}, {a, ids, 65, QN_LOGITS_LAST}}, 2, logits[0], QN_E_NOSPACE, "65|64"},
        {{{a, ids, 1, QN_LOGITS_LAST}}, -1, logits[0], QN_E_ARGUMENT, "-1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char what[32];
        snprintf(what, sizeof what, "eval %zu", i);
        int got = qn_eval(e, bad[i].sp, bad[i].n, bad[i].logits, &err);
        check_error(what, &err, got, bad[i].code, bad[i].says);
        assert_int_equal(qn_seq_len(a), 0);
        assert_int_equal(qn_seq_len(b), 0);
    }
    /* nothing was harmed: both sequences give what they would have given, up to a full context */
    struct qn_span both[2] = {{a, ids, 64, QN_LOGITS_LAST}, {b, ids, 1, QN_LOGITS_LAST}};
    assert_int_equal(qn_eval(e, both, 2, logits[0], &err), 0);
    check_error("full", &err, qn_eval(e, &both[1], 1, NULL, &err), QN_E_ARGUMENT, "span 0");
    both[0].n = 1;
    check_error("full", &err, qn_eval(e, both, 1, again, &err), QN_E_NOSPACE, "64");
    assert_int_equal(qn_seq_len(a), 64);
    qn_seq_clear(a);
    assert_int_equal(qn_seq_len(a), 0);
    assert_int_equal(qn_eval(e, both, 1, again, &err), 0);
    assert_memory_equal(again, logits[1], sizeof again);
    assert_int_equal(qn_eval(e, NULL, 0, NULL, &err), 0);
    qn_seq_free(a);
    qn_seq_free(b);
    qn_seq_free(foreign);
    qn_seq_free(NULL);
    qn_close(e);
    qn_close(other);
    qn_close(NULL);
}

/* ---- weights that are not numbers */

/* A model file whose tensors are poisoned one by one, in place. */
struct lab {
    struct edit *e;
    const char *path;
    uint8_t *file;
    size_t header, size;
};

static struct lab lab_open(const char *model)
{
    struct lab l = {.e = edit_model(model, "bf16"), .path = test_tmp("poison.gguf")};
    l.header = edit_write(l.e, l.path, true);
    l.size = edit_offset(l.e, l.header, l.e->n_tensors);
    int fd = open(l.path, O_RDWR);
    assert_int_equal(ftruncate(fd, (off_t)l.size), 0);
    l.file = mmap(NULL, l.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(l.file != MAP_FAILED);
    close(fd);
    return l;
}

static void lab_close(struct lab *l)
{
    munmap(l->file, l->size);
    edit_free(l->e);
}

/* Puts a value into the first column of every row, so that every expert and every id has it; or takes it out again. */
static void poison(struct lab *l, int i, uint32_t f32_bits)
{
    const struct edit_tensor *t = &l->e->tensor[i];
    uint8_t *p = l->file + edit_offset(l->e, l->header, i);
    size_t bytes = t->type == QN_F32 ? 4 : 2;
    for (size_t at = 0; at < t->bytes; at += edit_row_bytes(t))
        memcpy(p + at, (uint8_t *)&f32_bits + 4 - bytes, bytes);
}

static void cure(struct lab *l, int i)
{
    memcpy(l->file + edit_offset(l->e, l->header, i), l->e->tensor[i].data, l->e->tensor[i].bytes);
}

/* Steps of one token, and of more rows than a worker repeats.  may_pass: then at least no NaN gets out. */
static void eval_poisoned(const char *what, const char *path, bool may_pass, const char *says)
{
    struct qn_options o = options(path);
    qn_engine *e = eval_open(&o);
    struct qn_error err = {0};
    int32_t ids[9] = {5, 6, 7, 8, 9, 1, 2, 3, 4};
    float logits[VOCAB];
    qn_seq *s = eval_seq(e);
    for (int n = 1; n <= 9; n += 8) {
        struct qn_span sp = {s, ids, n, QN_LOGITS_LAST};
        int got = qn_eval(e, &sp, 1, logits, &err);
        if (got == 0 && !may_pass)
            fail_msg("%s, %d tokens: evaluated", what, n);
        for (int i = 0; got == 0 && i < VOCAB; i++)
            assert_false(isnan(logits[i]));
        if (got) {
            check_error(what, &err, got, QN_E_NUMERIC, says);
            assert_int_equal(qn_seq_len(s), 0);
        }
    }
    qn_seq_free(s);
    qn_close(e);
}

/* Where a tensor's numbers are met first: its own layer, or the entry to the next. */
static const char *met_in(const char *tensor)
{
    int block = -1;
    sscanf(tensor, "blk.%d.", &block);
    if (!strcmp(tensor, "output.weight"))
        return "poison.gguf|output matrix";
    if (!strcmp(tensor, "output_norm.weight"))
        return "poison.gguf|last norm";
    return block == 1 ? "poison.gguf|first seen" : "poison.gguf|in layer ";
}

static void test_nan(void **state)
{
    struct lab l = lab_open(*state);
    for (int i = 0; i < l.e->n_tensors; i++) {
        char what[128];
        if (!strncmp(l.e->tensor[i].name, "blk.2.", 6)) /* nextn: not evaluated */
            continue;
        snprintf(what, sizeof what, "%s: NaN in %s", (const char *)*state, l.e->tensor[i].name);
        poison(&l, i, 0x7FC00000);
        eval_poisoned(what, l.path, false, met_in(l.e->tensor[i].name));
        cure(&l, i);
    }
    eval_poisoned("cured", l.path, true, "");
    lab_close(&l);
}

/* Infinite weights give NaN or infinite logits somewhere; nothing crashes, and NaN never gets out. */
static void test_inf(void **state)
{
    struct lab l = lab_open(*state);
    for (int i = 0; i < l.e->n_tensors; i++) {
        char what[128];
        snprintf(what, sizeof what, "%s: infinite %s", (const char *)*state, l.e->tensor[i].name);
        poison(&l, i, 0x7F800000);
        eval_poisoned(what, l.path, true, "first seen");
        cure(&l, i);
    }
    lab_close(&l);
}

/* ---- flipped bytes in the header: refused or run, never a crash (the sanitizers watch) */

static void test_flips(void **state)
{
    const char *model = *state, *path = test_tmp("flip.gguf");
    const char *count = getenv("QUERN_FLIPS");
    int n = count ? atoi(count) : 150, opened = 0;
    struct edit *edit = edit_model(model, "Q4_0");
    size_t header = edit_write(edit, path, true), size;
    edit_free(edit);
    char *image = test_read(path, &size);
    uint64_t seed = hash_splitmix64((uint64_t)model[5] + (uint64_t)(count ? n : 0));
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    for (int i = 0; i < n; i++) {
        seed = hash_splitmix64(seed);
        size_t at = (size_t)(seed >> 16) % header;
        if (i % 3 == 0) /* the texts of the vocabulary are most of the header: favour the tensor table behind them */
            at = header - 1 - at % (header / 8);
        uint8_t flipped = (uint8_t)((uint8_t)image[at] ^ (1u << (seed & 7)));
        fseek(f, (long)at, SEEK_SET);
        fputc(flipped, f);
        fflush(f);
        struct qn_options o = options(path);
        struct qn_error err = {0};
        qn_engine *e = NULL;
        qn_seq *s = NULL;
        o.n_threads = 1 + i % 2;
        if (qn_open(&e, &o, &err)) {
            assert_null(e);
            assert_true(err.code < 0 && err.text[0] && !strchr(err.text, '\n'));
        } else {
            int32_t ids[6] = {5, 6, 7, 8, 9, 1};
            struct qn_model_info info;
            qn_model_info(e, &info);
            float *logits = malloc((size_t)info.n_vocab * sizeof *logits);
            s = eval_seq(e);
            struct qn_span sp = {s, ids, 6, QN_LOGITS_LAST};
            qn_eval(e, &sp, 1, logits, &err);
            free(logits);
            opened++;
        }
        qn_seq_free(s);
        qn_close(e);
        fseek(f, (long)at, SEEK_SET);
        fputc(image[at], f);
        fflush(f);
    }
    print_message("%s: %d of %d headers with a flipped bit could be opened\n", model, opened, n);
    fclose(f);
    free(image);
}

/* ---- nothing stays behind */

static int open_files(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void one_life(const struct qn_options *o)
{
    qn_engine *e = eval_open(o);
    qn_seq *s = eval_seq(e);
    eval_some(e, s);
    qn_seq_free(s);
    qn_close(e);
}

static void test_leaks(void **state)
{
    (void)state;
    struct qn_options good = options(plain_file()), bad = options(test_tmp("bad.gguf"));
    struct edit *edit = edit_model("qwen35moe", "Q8_0");
    edit_apply(edit, "add extra 1"); /* refused at the very end of binding */
    edit_write(edit, bad.model, false);
    edit_free(edit);
    good.n_threads = 2;
    long size = 0;
    int files = 0;
    for (int i = 0; i < 24; i++) {
        if (i == 4) { /* by then threads and caches are there */
            size = status_kib("VmSize:");
            files = open_files();
        }
        one_life(&good);
        expect_refusal("leak", &bad, QN_E_UNSUPPORTED, "extra");
    }
    assert_int_equal(open_files(), files);
    /* one open engine has 8 MiB mapped; the allocator of a sanitizer keeps freed memory for a while */
    long grown = status_kib("VmSize:") - size;
    print_message("20 lives: %ld KiB more\n", grown);
#ifndef TEST_KEEPS_FREED
    assert_true(grown < 4096);
#endif
}

int main(void)
{
    static const char *const each[] = {"qwen3next", "qwen35-mtp", "qwen35moe", "qwen3", "qwen3moe", "qwen2", "llama"};
    static char names[40][48];
    struct CMUnitTest tests[60] = {
        {.name = "load/refusals", .test_func = test_refusals},     {.name = "load/options", .test_func = test_options},
        {.name = "load/memory", .test_func = test_memory},         {.name = "load/cancel", .test_func = test_cancel},
        {.name = "load/vocab_only", .test_func = test_vocab_only}, {.name = "load/eval", .test_func = test_eval},
        {.name = "load/leaks", .test_func = test_leaks},
    };
    static const struct {
        const char *name;
        CMUnitTestFunction run;
        unsigned models; /* bit i: each[i] */
    } per_model[] = {{"every_tensor", test_every_tensor, 0x7F},
                     {"nan", test_nan, 0x61},
                     {"inf", test_inf, 0x02},
                     {"flips", test_flips, 0x06}};
    int n = 7, n_names = 0;
    for (size_t k = 0; k < sizeof per_model / sizeof *per_model; k++)
        for (int i = 0; i < 7; i++)
            if (per_model[k].models >> i & 1) {
                char *name = names[n_names++];
                snprintf(name, sizeof names[0], "load/%s/%s", per_model[k].name, each[i]);
                tests[n++] = (struct CMUnitTest){
                    .name = name, .test_func = per_model[k].run, .initial_state = (void *)(uintptr_t)each[i]};
            }
    return _cmocka_run_group_tests("load", tests, (size_t)n, NULL, NULL);
}
