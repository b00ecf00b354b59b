/* SPDX-License-Identifier: MIT */
/* The options table, its parser and the --help made from it.  Names are those that users of llama.cpp know. */
#include "opts.h"
#include "io.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* clang-format off */
const struct cmd_info cmd_infos[CMD_COUNT] = {
    [CMD_CHAT]       = {"chat", "[options]", "talk with a model"},
    [CMD_RUN]        = {"run", "[-p TEXT | -f FILE] [options]", "continue a text"},
    [CMD_BATCH]      = {"batch", "-i IN.jsonl -o OUT.jsonl [options]", "answer a file of prompts, many side by side"},
    [CMD_PERPLEXITY] = {"perplexity", "-f FILE [options]", "score a text, compare two models' predictions"},
    [CMD_LOGITS]     = {"logits", "--ids FILE [--ids FILE ...] [--out FILE] [--hash] [options]", "logits of given tokens, or their checksum"},
    [CMD_TOKENIZE]   = {"tokenize", "[options] < TEXT", "text to tokens and back"},
    [CMD_TEMPLATE]   = {"template", "--messages FILE [options]", "render a conversation as the model sees it"},
    [CMD_INSPECT]    = {"inspect", "MODEL [options]", "what is in a GGUF file or a pack cache, or what the machine is like"},
    [CMD_BENCH]      = {"bench", "[options]", "measure speed"},
};

const char *const group_titles[GROUP_COUNT] = {"Options", "Model", "Computation", "Generation and sampling"};

#define B(c) (1u << CMD_##c)
#define TEXTUAL (B(CHAT) | B(RUN) | B(BATCH))
#define ENGINE (TEXTUAL | B(PERPLEXITY) | B(LOGITS) | B(BENCH))
#define VOCAB (B(TOKENIZE) | B(TEMPLATE))
#define ALL ((1u << CMD_COUNT) - 1)
#define AT(m) offsetof(struct opts, m)
#define BIG 1e9

const struct opt opt_table[] = {
    /* name, other spellings, kind, group, commands, member, min, max, default, argument, choices, help */
    {"help", "-h", OPT_FLAG, GROUP_OWN, ALL, AT(help), 0, 0, NULL, NULL, NULL,
        "Print the options and leave."},

    /* ---- chat */
    {"system-prompt", "-sys --system", OPT_TEXT, GROUP_OWN, B(CHAT), AT(system), 0, 0, NULL, "TEXT", NULL,
        "Begin the conversation with this system message."},
    {"session", "", OPT_TEXT, GROUP_OWN, B(CHAT), AT(session), 0, 0, NULL, "FILE", NULL,
        "Go on with the conversation in this file, if it is there, without reading it again, and keep it there at the end."},

    /* ---- run */
    {"prompt", "-p", OPT_TEXT, GROUP_OWN, B(RUN), AT(prompt), 0, 0, NULL, "TEXT", NULL,
        "The text to continue, byte for byte."},
    {"file", "-f", OPT_TEXT, GROUP_OWN, B(RUN), AT(file), 0, 0, NULL, "FILE", NULL,
        "Read the text to continue from a file; a single dash is standard input."},
    {"session", "", OPT_TEXT, GROUP_OWN, B(RUN), AT(session), 0, 0, NULL, "FILE", NULL,
        "Begin with what is in this file, if it is there: of the prompt only what is new is read; without a prompt its text goes on. Keep prompt and continuation there at the end."},
    {"display-prompt", "--echo", OPT_FLAG, GROUP_OWN, B(RUN), AT(echo), 0, 0, NULL, NULL, NULL,
        "Print the prompt in front of its continuation."},

    /* ---- batch */
    {"input", "-i", OPT_TEXT, GROUP_OWN, B(BATCH), AT(input), 0, 0, NULL, "FILE", NULL,
        "Prompts, one JSON object a line."},
    {"output", "-o", OPT_TEXT, GROUP_OWN, B(BATCH), AT(output), 0, 0, NULL, "FILE", NULL,
        "Answers, one JSON object a line, in the order of the input. Until all are there, finished ones are kept in FILE.part."},
    {"parallel", "-np", OPT_INT, GROUP_OWN, B(BATCH), AT(n_parallel), 1, 1024, "4", "N sequences", NULL,
        "Prompts answered side by side. Each has a context of its own. The answers do not depend on it."},

    /* ---- several texts */
    {"on-full", "", OPT_CHOICE, GROUP_OWN, B(CHAT), AT(on_full), 0, 0, "stop", "WORD", "stop|shift|drop-oldest-turns",
        "When the context is full: end the answer; leave out the older half of what is behind --keep; or drop the oldest messages and their answers."},
    {"on-full", "", OPT_CHOICE, GROUP_OWN, B(RUN) | B(BATCH), AT(on_full), 0, 0, "stop", "WORD", "stop|shift",
        "When the context is full: end there, or leave out the older half of what is behind --keep and go on."},
    {"keep", "", OPT_INT, GROUP_OWN, TEXTUAL, AT(n_keep), -1, 16777216, "-1", "N tokens", NULL,
        "With --on-full shift, tokens at the beginning that stay; -1 is the system message of a chat, and of a plain text the token that begins it."},
    {"special", "", OPT_FLAG, GROUP_OWN, B(RUN) | B(BATCH), AT(special), 0, 0, NULL, NULL, NULL,
        "Recognise control tokens such as <|im_start|> in the text of a prompt."},
    {"special", "", OPT_FLAG, GROUP_OWN, B(TOKENIZE), AT(special), 0, 0, NULL, NULL, NULL,
        "Recognise control tokens such as <|im_start|> in the text; with --detokenize, print them."},
    {"think", "", OPT_CHOICE, GROUP_OWN, B(CHAT) | B(BATCH), AT(think), 0, 0, "auto", "WORD", "auto|on|off",
        "Sets the chat template's variable enable_thinking. With auto it is left to the template, and is off for the bundled demo model."},
    {"kwargs", "--chat-template-kwargs", OPT_TEXT, GROUP_OWN, B(CHAT) | B(BATCH) | B(TEMPLATE), AT(kwargs), 0, 0, NULL, "JSON", NULL,
        "An object with more variables for the chat template."},

    /* ---- perplexity */
    {"file", "-f", OPT_TEXT, GROUP_OWN, B(PERPLEXITY), AT(file), 0, 0, NULL, "FILE", NULL,
        "The text to score; a single dash is standard input."},
    {"ctx-size", "-c", OPT_INT, GROUP_OWN, B(PERPLEXITY), AT(n_ctx), 4, 16777216, "512", "N tokens", NULL,
        "Length of the chunks that the text is cut into."},
    {"chunks", "", OPT_INT, GROUP_OWN, B(PERPLEXITY), AT(n_chunks), -1, BIG, "-1", "N", NULL,
        "Score only the first chunks; -1 scores all."},
    {"save-logits", "--save-all-logits", OPT_TEXT, GROUP_OWN, B(PERPLEXITY), AT(save_logits), 0, 0, NULL, "FILE", NULL,
        "Write the predictions of every scored position to a file that --kl-divergence reads."},
    {"kl-divergence", "--kl-divergence-base", OPT_TEXT, GROUP_OWN, B(PERPLEXITY), AT(kl_divergence), 0, 0, NULL, "FILE", NULL,
        "Compare with the predictions in a file. Text and chunk length are taken from it."},
    {"json", "", OPT_FLAG, GROUP_OWN, B(PERPLEXITY), AT(json), 0, 0, NULL, NULL, NULL,
        "Print the result as one JSON object and nothing else."},

    /* ---- logits */
    {"ids", "", OPT_TEXTS, GROUP_OWN, B(LOGITS), AT(ids), 0, 0, NULL, "FILE", NULL,
        "Token ids, separated by white space or commas. May be repeated: the files are then sequences of one batch."},
    {"out", "", OPT_TEXT, GROUP_OWN, B(LOGITS), AT(output), 0, 0, NULL, "FILE", NULL,
        "Write the logits as little-endian 32-bit floats, a row of the vocabulary's size for each id, file after file. A single dash is standard output."},
    {"hash", "", OPT_FLAG, GROUP_OWN, B(LOGITS), AT(hash), 0, 0, NULL, NULL, NULL,
        "Print the XXH3 checksum of each file's logits, 16 hexadecimal digits a line."},
    {"ctx-size", "-c", OPT_INT, GROUP_OWN, B(LOGITS), AT(n_ctx), 0, 16777216, "0", "N tokens", NULL,
        "Positions a sequence can hold; 0 is as many as the longest file needs."},

    /* ---- tokenize */
    {"detokenize", "", OPT_FLAG, GROUP_OWN, B(TOKENIZE), AT(detokenize), 0, 0, NULL, NULL, NULL,
        "The other way: read ids (a JSON array, or separated by white space or commas), print their text."},

    /* ---- template */
    {"messages", "", OPT_TEXT, GROUP_OWN, B(TEMPLATE), AT(messages), 0, 0, NULL, "FILE", NULL,
        "The conversation: a JSON array of messages; a single dash is standard input."},
    {"tools", "", OPT_TEXT, GROUP_OWN, B(TEMPLATE), AT(tools), 0, 0, NULL, "FILE", NULL,
        "Tools offered to the model: a JSON array."},
    {"now", "", OPT_TEXT, GROUP_OWN, B(TEMPLATE), AT(now), 0, 0, NULL, "TIME", NULL,
        "What the template is told about the time, as 'YYYY-MM-DD HH:MM:SS', instead of the clock."},
    {"no-generation-prompt", "", OPT_FLAG, GROUP_OWN, B(TEMPLATE), AT(no_generation_prompt), 0, 0, NULL, NULL, NULL,
        "Do not end with the opening of the assistant's turn."},

    /* ---- inspect */
    {"check", "", OPT_FLAG, GROUP_OWN, B(INSPECT), AT(check), 0, 0, NULL, NULL, NULL,
        "Decode every block; report values that are not finite and impossible scales, and exit with 1 if there are any. Of a pack cache, verify all checksums."},
    {"topology", "", OPT_FLAG, GROUP_OWN, B(INSPECT), AT(topology), 0, 0, NULL, NULL, NULL,
        "Print the machine instead: sockets, nodes, caches, cores, what this process may use and where workers go; with a model, open it and show which nodes its memory lies on."},
    {"json", "", OPT_FLAG, GROUP_OWN, B(INSPECT), AT(json), 0, 0, NULL, NULL, NULL,
        "Print everything as one JSON object."},
    {"ctx-size", "-c", OPT_INT, GROUP_OWN, B(INSPECT), AT(n_ctx), 0, 16777216, "0", "N tokens", NULL,
        "Context for which the need of memory is shown; 0 is the model's own."},

    /* ---- bench */
    {"n-prompt", "-p", OPT_INTS, GROUP_OWN, B(BENCH), AT(list_p), 0, 16777216, "512", "N,.. tokens", NULL,
        "Lengths of the prompts to time; 0 leaves them out."},
    {"n-gen", "-n", OPT_INTS, GROUP_OWN, B(BENCH), AT(list_n), 0, 16777216, "128", "N,.. tokens", NULL,
        "Numbers of tokens to time one by one; 0 leaves them out."},
    {"n-depth", "-d", OPT_INTS, GROUP_OWN, B(BENCH), AT(list_d), 0, 15000000, "0", "N,.. tokens", NULL,
        "Tokens that are in the context before the clock starts."},
    {"parallel", "-npl --n-parallel", OPT_INTS, GROUP_OWN, B(BENCH), AT(list_npl), 1, 1024, "1", "N,.. sequences", NULL,
        "Sequences that write side by side; the tokens of all are counted. Prompts are read by one."},
    {"threads", "-t", OPT_INTS, GROUP_OWN, B(BENCH), AT(list_t), 0, 1024, "0", "N,.. threads", NULL,
        "Numbers of workers to try; 0 is one per physical core."},
    {"ubatch-size", "-ub", OPT_INTS, GROUP_OWN, B(BENCH), AT(list_ub), 1, 8192, "512", "N,.. tokens", NULL,
        "Numbers of tokens computed at once to try."},
    {"repetitions", "-r", OPT_INT, GROUP_OWN, B(BENCH), AT(n_repeat), 1, 10000, "5", "N", NULL,
        "Measurements of each figure."},
    {"format", "--output -o", OPT_CHOICE, GROUP_OWN, B(BENCH), AT(format), 0, 0, "table", "WORD", "table|csv|json|md",
        "Form of the result."},
    {"plot", "", OPT_TEXT, GROUP_OWN, B(BENCH), AT(plot), 0, 0, NULL, "FILE", NULL,
        "Draw speed over depth and the phases' shares of the limit into this SVG file. Needs the program gnuplot."},
    {"no-limits", "", OPT_FLAG, GROUP_OWN, B(BENCH), AT(no_limits), 0, 0, NULL, NULL, NULL,
        "Leave out measuring the machine's limits, which takes a second for each number of threads, and the shares of them."},
    {"spec-accept", "", OPT_INTS, GROUP_OWN, B(BENCH), AT(list_right), 0, 100, NULL, "N,.. %", NULL,
        "Time writing with --draft-max guesses, too, of which so many are right whose forerunners are. With --spec mtp the model's draft block works for them."},
    {"barriers", "", OPT_FLAG, GROUP_OWN, B(BENCH), AT(barriers), 0, 0, NULL, NULL, NULL,
        "Print how often the workers meet, what a barrier costs and how long they wait there, instead of speeds."},
    {"kernels", "", OPT_FLAG, GROUP_OWN, B(BENCH), AT(kernels), 0, 0, NULL, NULL, NULL,
        "Time the kernels of every instruction-set level instead of a model."},
    {"only", "", OPT_TEXT, GROUP_OWN, B(BENCH), AT(only), 0, 0, NULL, "TEXT", NULL,
        "With --kernels: operations whose name contains this, as in 'mul Q4_K'."},
    {"bounds", "", OPT_FLAG, GROUP_OWN, B(BENCH), AT(bounds), 0, 0, NULL, NULL, NULL,
        "Print what the kernels are measured against: the instructions that each type's product needs."},
    {"seed", "-s", OPT_SEED, GROUP_OWN, B(BENCH), AT(seed), 0, 0, "1", "N", NULL,
        "Seed of the random tokens."},

    /* ---- model */
    {"model", "-m", OPT_TEXT, GROUP_MODEL, ALL, AT(model), 0, 0, NULL, "FILE", NULL,
        "The GGUF file, or the first part of a split one. Without it the bundled demo model is used."},
    {"pre", "", OPT_TEXT, GROUP_MODEL, TEXTUAL | B(PERPLEXITY) | B(TOKENIZE), AT(pre), 0, 0, NULL, "NAME", NULL,
        "Pre-tokenizer to use instead of the one that the file names."},
    {"template-file", "--chat-template-file", OPT_TEXT, GROUP_MODEL, B(CHAT) | B(BATCH) | B(TEMPLATE), AT(template_file), 0, 0, NULL, "FILE", NULL,
        "Chat template to use instead of the file's own."},
    {"rope-scaling", "", OPT_CHOICE, GROUP_MODEL, ENGINE, AT(rope_scaling), 0, 0, NULL, "WORD", "none|linear|yarn",
        "How rotary positions are stretched, instead of what the file says."},
    {"rope-scale", "", OPT_REAL, GROUP_MODEL, ENGINE, AT(rope_scale), 0, 1e6, "0", "N", NULL,
        "Factor by which the context is extended; 0 is the file's."},
    {"rope-freq-base", "", OPT_REAL, GROUP_MODEL, ENGINE, AT(rope_freq_base), 0, BIG, "0", "N", NULL,
        "Base of the rotary frequencies; 0 is the file's."},

    /* ---- computation */
    {"ctx-size", "-c", OPT_INT, GROUP_COMPUTE, TEXTUAL, AT(n_ctx), 0, 16777216, "0", "N tokens", NULL,
        "Most positions of a sequence; 0 is the model's own. Memory is taken as they are used."},
    {"threads", "-t", OPT_INT, GROUP_COMPUTE, ENGINE & ~B(BENCH), AT(n_threads), 0, 1024, "0", "N threads", NULL,
        "Workers; 0 is one per physical core that the process may use."},
    {"threads-batch", "-tb", OPT_INT, GROUP_COMPUTE, ENGINE, AT(n_threads_batch), 0, 1024, "0", "N threads", NULL,
        "Workers while a prompt is read; 0 is as many as otherwise."},
    {"batch-size", "-b", OPT_INT, GROUP_COMPUTE, ENGINE, AT(n_batch), 1, 16777216, "2048", "N tokens", NULL,
        "Tokens of a prompt handed to the engine in one call; between calls the program looks at the keyboard."},
    {"ubatch-size", "-ub", OPT_INT, GROUP_COMPUTE, ENGINE & ~B(BENCH), AT(n_ubatch), 1, 8192, "512", "N tokens", NULL,
        "Tokens computed at once. Changes speed and memory, never the result."},
    {"cache-type-k", "-ctk", OPT_CHOICE, GROUP_COMPUTE, ENGINE, AT(type_k), 0, 0, "f16", "TYPE",
        "f16|f32|bf16|q8_0|q5_0|q4_0|iq4_nl", "Type of the keys in the KV cache."},
    {"cache-type-v", "-ctv", OPT_CHOICE, GROUP_COMPUTE, ENGINE, AT(type_v), 0, 0, "f16", "TYPE",
        "f16|f32|bf16|q8_0|q5_0|q4_0|iq4_nl", "Type of the values in the KV cache."},
    {"cache-ram", "-cram", OPT_INT, GROUP_COMPUTE, TEXTUAL, AT(cache_ram), 0, BIG, ":a quarter of what is free", "N MiB", NULL,
        "Memory for what was computed: earlier turns and common beginnings of prompts are continued from there instead of being read again. Never changes a result. 0 keeps nothing."},
    {"cache-dir", "", OPT_TEXT, GROUP_COMPUTE, TEXTUAL, AT(cache_dir), 0, 0, NULL, "DIR", NULL,
        "Keep what leaves that memory, and what is in it at the end, in files of this folder, where later starts with the same model find it. Never changes a result. Made if it is missing; refused if everybody may write to it."},
    {"cache-disk", "", OPT_INT, GROUP_COMPUTE, TEXTUAL, AT(cache_disk), 1, BIG, ":16384, or a quarter of what is free if that is less", "N MiB", NULL,
        "Room for the files in --cache-dir, whoever wrote them. What was not used for longest is removed."},
    {"spec", "--spec-type", OPT_CHOICE, GROUP_COMPUTE, TEXTUAL | B(BENCH), AT(spec), 0, 0, "off", "DRAFTER", "off|ngram|mtp",
        "Who guesses tokens ahead, which are then evaluated together: the text itself, where it repeats (ngram), or the model's own draft block (mtp). Changes speed, never the result; pauses where it does not pay."},
    {"draft-max", "--draft --spec-draft-n-max", OPT_INT, GROUP_COMPUTE, TEXTUAL | B(BENCH), AT(draft_max), 1, 63, "3", "N tokens", NULL,
        "Most tokens guessed at once."},
    {"pack-cache", "", OPT_TEXT, GROUP_COMPUTE, ENGINE, AT(pack_cache), 0, 0, NULL, "FILE", NULL,
        "Keep the weights, as the kernels read them, in this file: the first start writes it, the next ones map it. With auto, each model has its own in the user's cache folder."},
    {"hugepages", "", OPT_FLAG, GROUP_COMPUTE, ENGINE, AT(hugepages), 0, 0, NULL, NULL, NULL,
        "Put the weights into explicit huge pages, which the system must have set aside. Transparent ones are asked for anyway."},
    {"isa", "", OPT_CHOICE, GROUP_COMPUTE, ENGINE, AT(isa), 0, 0, "auto", "LEVEL", "auto|c|avx2|avxvnni|avx512|avx512vbmi|amx|neon|i8mm",
        "Instruction-set level of the kernels. Changes speed, never the result."},
    {"numa", "", OPT_CHOICE, GROUP_COMPUTE, ENGINE, AT(numa), 0, 0, "auto", "WORD", "auto|off",
        "Pin workers, and where they are on several memory nodes give each node a slice of every matrix (auto), or leave both to the system (off). Changes speed, never the result."},
    {"delta", "", OPT_CHOICE, GROUP_COMPUTE, ENGINE, AT(delta), 0, 0, "exact", "FORM", "exact|chunked",
        "Form of the delta rule; chunked is for measurements only."},

    /* ---- generation and sampling */
    {"predict", "-n --n-predict", OPT_INT, GROUP_SAMPLING, TEXTUAL, AT(n_predict), -1, BIG, "-1", "N tokens", NULL,
        "Most tokens of an answer; -1 goes on until the model stops or the context is full."},
    {"seed", "-s", OPT_SEED, GROUP_SAMPLING, TEXTUAL, AT(seed), 0, 0, "random", "N", NULL,
        "Seed of the random choices; -1 or random for a new one, which is printed."},
    {"stop", "-r --reverse-prompt", OPT_TEXTS, GROUP_SAMPLING, TEXTUAL, AT(stop), 0, 0, NULL, "TEXT", NULL,
        "End an answer in front of this text. May be repeated."},
    {"ignore-eos", "", OPT_FLAG, GROUP_SAMPLING, TEXTUAL, AT(ignore_eos), 0, 0, NULL, NULL, NULL,
        "Never choose a token that ends an answer."},
    {"samplers", "", OPT_TEXT, GROUP_SAMPLING, TEXTUAL, AT(samplers), 0, 0, ":penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature", "LIST", NULL,
        "Samplers in the order of their use, separated by semicolons."},
    {"temp", "--temperature", OPT_REAL, GROUP_SAMPLING, TEXTUAL, AT(temp), 0, 1000, ":the model's", "N", NULL,
        "Temperature; 0 always takes the likeliest token, and leaves out penalties that are only the model's default."},
    {"top-k", "", OPT_INT, GROUP_SAMPLING, TEXTUAL, AT(top_k), 0, BIG, ":the model's", "N tokens", NULL,
        "Choose among the likeliest tokens; 0 is off."},
    {"top-p", "", OPT_REAL, GROUP_SAMPLING, TEXTUAL, AT(top_p), 0, 1, ":the model's", "N", NULL,
        "Choose among the likeliest tokens that together reach this probability; 1 is off."},
    {"min-p", "", OPT_REAL, GROUP_SAMPLING, TEXTUAL, AT(min_p), 0, 1, ":the model's", "N", NULL,
        "Drop tokens less probable than this share of the likeliest one's probability; 0 is off."},
    {"typical", "--typical-p", OPT_REAL, GROUP_SAMPLING, TEXTUAL, AT(typical), 0, 1, ":the model's, else 1", "N", NULL,
        "Locally typical sampling with this probability; 1 is off."},
    {"top-n-sigma", "--top-nsigma", OPT_REAL, GROUP_SAMPLING, TEXTUAL, AT(top_n_sigma), -1, 1000, ":the model's, else -1", "N", NULL,
        "Keep tokens within this many standard deviations of the largest logit; 0 or less is off."},
    {"xtc-probability", "", OPT_REAL, GROUP_SAMPLING, TEXTUAL, AT(xtc_probability), 0, 1, ":the model's, else 0", "N", NULL,
        "How often the likeliest tokens are excluded; 0 is off."},
    {"xtc-threshold", "", OPT_REAL, GROUP_SAMPLING, TEXTUAL, AT(xtc_threshold), 0, 1, ":the model's, else 0.1", "N", NULL,
        "Probability from which a token can be excluded; above 0.5 is off."},
    {"dry-multiplier", "", OPT_REAL, GROUP_SAMPLING, TEXTUAL, AT(dry_multiplier), 0, 1000, ":the model's, else 0", "N", NULL,
        "Strength of the penalty on repeated sequences (DRY); 0 is off."},
    {"dry-base", "", OPT_REAL, GROUP_SAMPLING, TEXTUAL, AT(dry_base), 0, 1000, ":the model's, else 1.75", "N", NULL,
        "How fast the DRY penalty grows with the length of the repetition."},
    {"dry-allowed-length", "", OPT_INT, GROUP_SAMPLING, TEXTUAL, AT(dry_allowed_length), 0, BIG, ":the model's, else 2", "N tokens", NULL,
        "Repetitions up to this length cost nothing."},
    {"dry-penalty-last-n", "", OPT_INT, GROUP_SAMPLING, TEXTUAL, AT(dry_last_n), -1, BIG, ":the model's, else -1", "N tokens", NULL,
        "Where DRY looks for repetitions: the last tokens; 0 is nowhere, -1 everywhere."},
    {"dry-sequence-breaker", "", OPT_TEXTS, GROUP_SAMPLING, TEXTUAL, AT(dry_breakers), 0, 0, ":newline, colon, quote, asterisk", "TEXT", NULL,
        "Text that no repetition reaches across. May be repeated; the first one given replaces the defaults, none leaves the list empty."},
    {"repeat-last-n", "", OPT_INT, GROUP_SAMPLING, TEXTUAL, AT(repeat_last_n), -1, BIG, ":the model's, else 64", "N tokens", NULL,
        "Tokens that the next three penalties look at; 0 is off, -1 all."},
    {"repeat-penalty", "", OPT_REAL, GROUP_SAMPLING, TEXTUAL, AT(repeat_penalty), 0.01, 100, ":the model's, else 1", "N", NULL,
        "Penalty on tokens that occurred before; 1 is off."},
    {"presence-penalty", "", OPT_REAL, GROUP_SAMPLING, TEXTUAL, AT(presence_penalty), -100, 100, ":the model's, else 0", "N", NULL,
        "Subtracted once from the logit of every token that occurred before."},
    {"frequency-penalty", "", OPT_REAL, GROUP_SAMPLING, TEXTUAL, AT(frequency_penalty), -100, 100, ":the model's, else 0", "N", NULL,
        "Subtracted from a token's logit for each time that it occurred."},
    {"logit-bias", "-l", OPT_TEXTS, GROUP_SAMPLING, TEXTUAL, AT(logit_bias), 0, 0, NULL, "ID+N", NULL,
        "Add to the logit of one token, as in 29905+1.5 or 29905-inf. May be repeated."},
    {"mirostat", "", OPT_INT, GROUP_SAMPLING, TEXTUAL, AT(mirostat), 0, 2, ":the model's, else 0", "N", NULL,
        "2 uses Mirostat 2.0 in place of the filters; 0 is off."},
    {"mirostat-lr", "", OPT_REAL, GROUP_SAMPLING, TEXTUAL, AT(mirostat_lr), 0, 10, ":the model's, else 0.1", "N", NULL,
        "Mirostat's learning rate, eta."},
    {"mirostat-ent", "", OPT_REAL, GROUP_SAMPLING, TEXTUAL, AT(mirostat_ent), 0, 100, ":the model's, else 5", "N", NULL,
        "Mirostat's target entropy, tau."},
};
/* clang-format on */
const int opt_table_rows = (int)(sizeof opt_table / sizeof *opt_table);
_Static_assert(sizeof opt_table / sizeof *opt_table <= sizeof((struct opts *)0)->given, "one flag per row");

/* ---- look-up */

static bool word_in(const char *list, char separator, const char *word, size_t len)
{
    for (const char *p = list; *p;) {
        const char *end = strchr(p, separator);
        size_t n = end ? (size_t)(end - p) : strlen(p);
        if (n == len && !memcmp(p, word, n))
            return true;
        p += n + (end != NULL);
    }
    return false;
}

const struct opt *opt_find(enum cmd cmd, const char *spelling, size_t len)
{
    for (int i = 0; i < opt_table_rows; i++) {
        const struct opt *row = &opt_table[i];
        if (!opt_has(row, cmd))
            continue;
        if (len > 2 && !memcmp(spelling, "--", 2) && strlen(row->name) == len - 2 &&
            !memcmp(row->name, spelling + 2, len - 2))
            return row;
        if (word_in(row->alias, ' ', spelling, len))
            return row;
    }
    return NULL;
}

bool opts_given(const struct opts *o, size_t at)
{
    for (int i = 0; i < opt_table_rows; i++)
        if (opt_table[i].at == at && opt_has(&opt_table[i], o->cmd))
            return o->given[i];
    return false;
}

int opts_choice(const struct opts *o, size_t at)
{
    int n = 0;
    const char *word = *(const char *const *)(const void *)((const char *)o + at);
    for (int i = 0; word && i < opt_table_rows; i++) {
        const struct opt *row = &opt_table[i];
        if (row->at != at || !opt_has(row, o->cmd))
            continue;
        for (const char *p = row->choices; strncmp(p, word, strlen(word)) || !strchr("|", p[strlen(word)]); n++)
            p = strchr(p, '|') + 1;
    }
    return n;
}

/* ---- values */

static bool read_number(const struct opt *row, const char *text, size_t len, double *out, char *err, size_t cap)
{
    char buf[64], *end = buf;
    if (len < sizeof buf) {
        memcpy(buf, text, len);
        buf[len] = 0;
        *out = strtod(buf, &end);
    }
    if (end == buf || *end || isspace((unsigned char)*text) || !isfinite(*out))
        return complain(err, cap, "--%s: '%.*s' is not a number", row->name, (int)len, text);
    if (row->kind != OPT_REAL && (*out != floor(*out) || strpbrk(buf, ".eExX")))
        return complain(err, cap, "--%s: '%.*s' is not a whole number", row->name, (int)len, text);
    if (*out < row->min || *out > row->max)
        return complain(err, cap, "--%s: %.*s is not within %.10g to %.10g", row->name, (int)len, text, row->min,
                        row->max);
    return true;
}

static bool read_ints(const struct opt *row, const char *text, struct ints *list, char *err, size_t cap)
{
    list->n = 0;
    for (const char *p = text;; p++) {
        size_t len = strcspn(p, ",");
        double v;
        if (!read_number(row, p, len, &v, err, cap))
            return false;
        int *grown = realloc(list->v, (size_t)(list->n + 1) * sizeof *grown);
        if (!grown)
            return complain(err, cap, "out of memory");
        list->v = grown;
        list->v[list->n++] = (int)v;
        p += len;
        if (!*p)
            return true;
    }
}

static bool read_seed(const struct opt *row, const char *text, uint64_t *out, char *err, size_t cap)
{
    char *end;
    errno = 0;
    *out = UINT64_MAX; /* stands for a random seed */
    if (!strcmp(text, "random") || !strcmp(text, "-1"))
        return true;
    *out = strtoull(text, &end, 0);
    if (!isdigit((unsigned char)*text) || *end || errno)
        return complain(err, cap, "--%s: '%s' is neither a whole number from 0 to 2^64 - 1 nor -1", row->name, text);
    return true;
}

static bool push(struct strings *list, const char *text)
{
    const char **grown = realloc(list->v, (size_t)(list->n + 1) * sizeof *grown);
    if (!grown)
        return false;
    list->v = grown;
    list->v[list->n++] = text;
    return true;
}

static bool set_value(struct opts *o, const struct opt *row, const char *text, char *err, size_t cap)
{
    void *at = (char *)o + row->at;
    double v = 0;
    switch (row->kind) {
    case OPT_FLAG:
        *(bool *)at = true;
        return true;
    case OPT_INT:
        if (!read_number(row, text, strlen(text), &v, err, cap))
            return false;
        *(int *)at = (int)v;
        return true;
    case OPT_REAL:
        return read_number(row, text, strlen(text), at, err, cap);
    case OPT_SEED:
        return read_seed(row, text, at, err, cap);
    case OPT_CHOICE:
        if (!word_in(row->choices, '|', text, strlen(text)))
            return complain(err, cap, "--%s: '%s' is none of %s", row->name, text, row->choices);
        *(const char **)at = text;
        return true;
    case OPT_TEXT:
        *(const char **)at = text;
        return true;
    case OPT_TEXTS:
        return push(at, text) ? true : complain(err, cap, "out of memory");
    case OPT_INTS:
        return read_ints(row, text, at, err, cap);
    }
    return false;
}

static bool takes_model_argument(enum cmd cmd) { return cmd == CMD_INSPECT; }

/* One option at argv[*i]; its value may be part of it after '=', or the next argument. */
static bool parse_one(struct opts *o, int argc, char **argv, int *i, char *err, size_t cap)
{
    const char *word = argv[*i], *value = NULL;
    size_t len = strlen(word);
    if (!strncmp(word, "--", 2) && strchr(word, '=')) {
        len = strcspn(word, "=");
        value = word + len + 1;
    }
    const struct opt *row = opt_find(o->cmd, word, len);
    if (!row)
        return complain(err, cap, "unknown option %.*s (see quern %s --help)", (int)len, word, cmd_infos[o->cmd].name);
    if (row->kind == OPT_FLAG && value)
        return complain(err, cap, "--%s takes no value", row->name);
    if (row->kind != OPT_FLAG && !value) {
        if (*i + 1 >= argc)
            return complain(err, cap, "%s needs a value: %s", word, row->arg);
        value = argv[++*i];
    }
    o->given[row - opt_table] = 1;
    return set_value(o, row, value, err, cap);
}

bool opts_parse(struct opts *o, enum cmd cmd, int argc, char **argv, char *err, size_t cap)
{
    memset(o, 0, sizeof *o);
    o->cmd = cmd;
    for (int i = 0; i < opt_table_rows; i++) {
        const struct opt *row = &opt_table[i];
        if (opt_has(row, cmd) && row->def && row->def[0] != ':' && !set_value(o, row, row->def, err, cap))
            return false;
    }
    bool only_arguments = false;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (!only_arguments && !strcmp(word, "--")) {
            only_arguments = true;
        } else if (!only_arguments && word[0] == '-' && word[1]) {
            if (!parse_one(o, argc, argv, &i, err, cap))
                return false;
        } else if (takes_model_argument(cmd) && !o->model) {
            o->model = word;
        } else {
            return complain(err, cap, "unexpected argument '%s' (see quern %s --help)", word, cmd_infos[cmd].name);
        }
    }
    return true;
}

void opts_free(struct opts *o)
{
    for (int i = 0; i < opt_table_rows; i++) {
        const struct opt *row = &opt_table[i];
        void *at = (char *)o + row->at;
        if (!opt_has(row, o->cmd))
            continue;
        if (row->kind == OPT_TEXTS) {
            free(((struct strings *)at)->v);
            *(struct strings *)at = (struct strings){0};
        } else if (row->kind == OPT_INTS) {
            free(((struct ints *)at)->v);
            *(struct ints *)at = (struct ints){0};
        }
    }
}

/* ---- help */

void opt_spelling(const struct opt *row, char *out, size_t cap)
{
    size_t n = 0;
    out[0] = 0;
    for (const char *p = row->alias; *p; p += strspn(p, " ")) { /* short names first */
        size_t len = strcspn(p, " ");
        if (strncmp(p, "--", 2))
            n += (size_t)snprintf(out + n, cap - n, "%.*s, ", (int)len, p);
        p += len;
    }
    n += (size_t)snprintf(out + n, cap - n, "--%s", row->name);
    for (const char *p = row->alias; *p; p += strspn(p, " ")) {
        size_t len = strcspn(p, " ");
        if (!strncmp(p, "--", 2))
            n += (size_t)snprintf(out + n, cap - n, ", %.*s", (int)len, p);
        p += len;
    }
    if (row->arg)
        snprintf(out + n, cap - n, " %.*s", (int)strcspn(row->arg, " "), row->arg);
}

void opt_facts(const struct opt *row, char *out, size_t cap)
{
    size_t n = 0;
    out[0] = 0;
    if (row->kind == OPT_INT || row->kind == OPT_INTS || row->kind == OPT_REAL) {
        n += (size_t)snprintf(out + n, cap - n, "%.10g to %.10g", row->min, row->max);
        const char *unit = strchr(row->arg, ' ');
        n += (size_t)snprintf(out + n, cap - n, "%s", unit ? unit : "");
    }
    if (row->choices)
        for (const char *p = row->choices; *p; p += strspn(p, "|")) {
            size_t len = strcspn(p, "|");
            n += (size_t)snprintf(out + n, cap - n, "%s%.*s",
                                  p == row->choices ? ""
                                  : p[len]          ? ", "
                                                    : " or ",
                                  (int)len, p);
            p += len;
        }
    if (row->def)
        snprintf(out + n, cap - n, "%sdefault %s", n ? "; " : "", row->def + (row->def[0] == ':'));
}

/* Prints text wrapped to width, every line but the first indented. */
static void print_wrapped(FILE *f, const char *text, int column, int indent, int width)
{
    for (const char *p = text; *p;) {
        int len = (int)strcspn(p, " ");
        if (column > indent && column + 1 + len > width) {
            fprintf(f, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', f);
            column++;
        }
        fprintf(f, "%.*s", len, p);
        column += len;
        p += len;
        p += strspn(p, " ");
    }
    fputc('\n', f);
}

enum { HELP_INDENT = 8 };

static void print_option(FILE *f, const struct opt *row, int width)
{
    char spelling[160], facts[200], text[640];
    opt_spelling(row, spelling, sizeof spelling);
    opt_facts(row, facts, sizeof facts);
    snprintf(text, sizeof text, facts[0] ? "%s (%s)" : "%s", row->help, facts);
    fprintf(f, "  %s\n%*s", spelling, HELP_INDENT, "");
    print_wrapped(f, text, HELP_INDENT, HELP_INDENT, width);
}

void opts_help(FILE *f, enum cmd cmd, int width)
{
    fprintf(f, "Usage: quern %s %s\n\n%s: %s.\n", cmd_infos[cmd].name, cmd_infos[cmd].usage, cmd_infos[cmd].name,
            cmd_infos[cmd].brief);
    for (int g = 0; g < GROUP_COUNT; g++) {
        bool title = false;
        for (int i = 0; i < opt_table_rows; i++) {
            if (opt_table[i].group != (enum opt_group)g || !opt_has(&opt_table[i], cmd))
                continue;
            if (!title)
                fprintf(f, "\n%s\n", group_titles[g]);
            title = true;
            print_option(f, &opt_table[i], width);
        }
    }
    fprintf(f, "\nMore in quern-%s(1).\n", cmd_infos[cmd].name);
}

void opts_help_all(FILE *f, int width)
{
    fprintf(f, "Usage: quern COMMAND [options]\n       quern --version | --help\n\n");
    print_wrapped(f, "Runs GGUF language models on the CPU. Commands:", 0, 0, width);
    fputc('\n', f);
    for (int c = 0; c < CMD_COUNT; c++)
        fprintf(f, "  %-12s %s\n", cmd_infos[c].name, cmd_infos[c].brief);
    fprintf(f, "\nquern COMMAND --help lists a command's options; more in quern(1).\n");
}
