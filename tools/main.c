/* SPDX-License-Identifier: MIT */
/* The program `quern`: picks the sub-command. */
#include "opts.h"
#include "setup.h"
#include "term.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

static int (*const commands[CMD_COUNT])(struct opts *) = {
    [CMD_CHAT] = cmd_chat,         [CMD_RUN] = cmd_run,
    [CMD_BATCH] = cmd_batch,       [CMD_PERPLEXITY] = cmd_perplexity,
    [CMD_LOGITS] = cmd_logits,     [CMD_TOKENIZE] = cmd_tokenize,
    [CMD_TEMPLATE] = cmd_template, [CMD_INSPECT] = cmd_inspect,
    [CMD_BENCH] = cmd_bench,
};

static const char compiler[] =
#if defined __clang__
    "clang " __clang_version__;
#elif defined __GNUC__
    "gcc " __VERSION__;
#else
    "unknown compiler";
#endif

static const char numa[] =
#ifdef HAVE_NUMA
    "libnuma";
#else
    "no libnuma";
#endif

static void print_version(void)
{
    out_printf("quern %s\n", qn_version());
    out_printf("arithmetic: QN_BITS %d\n", QN_BITS);
    out_printf("level: %s\n", bench_level());
    out_printf("build: %s, %s, %s\n", HOST_TRIPLET, compiler, numa);
    out_flush();
}

static int find_command(const char *name)
{
    for (int c = 0; c < CMD_COUNT; c++)
        if (!strcmp(cmd_infos[c].name, name))
            return c;
    return -1;
}

static int help_width(void)
{
    int width = term_out() ? term_width() : 80;
    return width < 40 ? 40 : width > 120 ? 120 : width;
}

static int print_help(int command)
{
    if (command < 0)
        opts_help_all(stdout, help_width());
    else
        opts_help(stdout, (enum cmd)command, help_width());
    out_flush();
    return 0;
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, ""); /* and nothing else: numbers keep their points */
    term_init();
    if (argc < 2)
        usage("no command given (see quern --help)");
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V") || !strcmp(argv[1], "version")) {
        print_version();
        return 0;
    }
    bool help = !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help");
    int command = find_command(argv[help && argc > 2 ? 2 : 1]);
    if (help && (command >= 0 || argc == 2))
        return print_help(command);
    if (command < 0)
        usage("unknown command '%s' (see quern --help)", argv[help ? 2 : 1]);

    struct opts o;
    char err[512];
    if (!opts_parse(&o, (enum cmd)command, argc - 2, argv + 2, err, sizeof err))
        usage("%s: %s", argv[1], err);
    int status = o.help ? print_help(command) : commands[command](&o);
    opts_free(&o);
    out_flush();
    return status;
}
