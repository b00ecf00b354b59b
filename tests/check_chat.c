/* SPDX-License-Identifier: MIT */
/* quern chat at a terminal: a pseudo-terminal stands for the person.  Runs in the build folder; QUERN names another program. */
#include <errno.h>
#include <poll.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { TIMEOUT_MS = 60000, SCREEN = 1 << 20 };

struct person {
    int fd;
    pid_t pid;
    char *seen; /* everything the program wrote */
    size_t n, from; /* bytes seen; where the next expectation looks */
    char folder[64]; /* state folder: its own history */
};

static int start(void **state, const char *const *options)
{
    struct person *p = calloc(1, sizeof *p);
    struct winsize size = {.ws_row = 40, .ws_col = 100};
    const char *argv[24], *quern = getenv("QUERN"), *data = getenv("QUERN_TEST_DATA");
    char model[512];
    int n = 0;
    assert_non_null(p);
    p->seen = calloc(1, SCREEN);
    snprintf(model, sizeof model, "%s/demo.gguf", data ? data : "tests/data");
    strcpy(p->folder, "/tmp/quern-chat-XXXXXX");
    assert_non_null(mkdtemp(p->folder));
    argv[n++] = quern ? quern : "./quern";
    argv[n++] = "chat";
    argv[n++] = "-m";
    argv[n++] = model;
    argv[n++] = "--temp";
    argv[n++] = "0";
    for (int i = 0; options[i]; i++)
        argv[n++] = options[i];
    argv[n] = NULL;
    p->pid = forkpty(&p->fd, NULL, NULL, &size);
    if (p->pid < 0)
        return -1;
    if (!p->pid) {
        setenv("TERM", "xterm", 1);
        setenv("LC_ALL", "C.UTF-8", 1);
        setenv("XDG_STATE_HOME", p->folder, 1);
        execv(argv[0], (char **)argv);
        _exit(127);
    }
    *state = p;
    return 0;
}

static int setup_plain(void **state)
{
    static const char *const options[] = {"--think", "off", NULL};
    return start(state, options);
}

static int setup_long(void **state)
{
    static const char *const options[] = {"--think", "off", "--ignore-eos", NULL};
    return start(state, options);
}

static int setup_slow(void **state)
{
    static const char *const options[] = {"--think", "off", "-b", "1", "-t", "1", NULL};
    return start(state, options);
}

static int setup_thinking(void **state)
{
    static const char *const options[] = {"--think", "on", "-n", "40", NULL};
    return start(state, options);
}

static void type(struct person *p, const char *text)
{
    assert_int_equal(write(p->fd, text, strlen(text)), strlen(text));
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Reads what there is; false at the end or when there was nothing in time. */
static bool take(struct person *p, int ms)
{
    struct pollfd f = {.fd = p->fd, .events = POLLIN};
    if (poll(&f, 1, ms) <= 0)
        return false;
    ssize_t got = read(p->fd, p->seen + p->n, SCREEN - 1 - p->n);
    if (got <= 0)
        return false;
    p->n += (size_t)got;
    return true;
}

/* Waits until the text appears behind what was expected before. */
static void expect(struct person *p, const char *text)
{
    int64_t end = now_ms() + TIMEOUT_MS;
    for (;;) {
        char *hit = memmem(p->seen + p->from, p->n - p->from, text, strlen(text));
        if (hit) {
            p->from = (size_t)(hit - p->seen) + strlen(text);
            return;
        }
        if (now_ms() > end || !take(p, (int)(end - now_ms())))
            fail_msg("'%s' did not appear; seen: %s", text, p->seen + p->from);
    }
}

/* The line editor is ready: it shows its prompt before it takes over the keyboard. */
static void expect_prompt(struct person *p, const char *prompt)
{
    struct termios t;
    int64_t end = now_ms() + TIMEOUT_MS;
    expect(p, prompt);
    while (!tcgetattr(p->fd, &t) && t.c_lflag & ICANON) {
        if (now_ms() > end)
            fail_msg("the line editor does not begin");
        take(p, 5);
    }
}

static void expect_exit(struct person *p, int status)
{
    int64_t end = now_ms() + TIMEOUT_MS;
    int got;
    while (now_ms() < end && take(p, 100 + (int)(end - now_ms()) / 100))
        ;
    while (waitpid(p->pid, &got, WNOHANG) == 0) {
        take(p, 50);
        if (now_ms() > end)
            fail_msg("the program does not end; seen: %s", p->seen + p->from);
    }
    p->pid = 0;
    if (!WIFEXITED(got) || WEXITSTATUS(got) != status)
        fail_msg("ended with wait status %#x; seen: %s", (unsigned)got, p->seen);
}

static int teardown(void **state)
{
    struct person *p = *state;
    char command[128];
    if (p->pid) {
        kill(p->pid, SIGKILL);
        waitpid(p->pid, NULL, 0);
    }
    close(p->fd);
    snprintf(command, sizeof command, "rm -rf %s", p->folder);
    int rc = system(command);
    free(p->seen);
    free(p);
    return rc;
}

/* ---- */

static void talk(void **state)
{
    struct person *p = *state;
    expect(p, "/help lists the commands");
    expect_prompt(p, "> ");
    type(p, "Who are you?\n");
    expect(p, "I am Tiny, a very small language model.");
    expect(p, " read, ");
    expect(p, " written, ");
    expect(p, " of 4096");
    expect_prompt(p, "> ");
    type(p, "/stats\n");
    expect(p, "tokens ");
    type(p, "/nonsense\n");
    expect(p, "/nonsense is not a command");
    type(p, "/exit\n");
    expect_exit(p, 0);
}

static void ends_at_ctrl_d(void **state)
{
    struct person *p = *state;
    expect_prompt(p, "> ");
    type(p, "\004");
    expect_exit(p, 0);
}

static void ctrl_c_stops_the_answer(void **state)
{
    struct person *p = *state;
    expect_prompt(p, "> ");
    type(p, "Tell me a story.\n");
    expect(p, "A st"); /* the answer, not the echo of what was typed */
    type(p, "\003");
    expect(p, "| stopped]");
    expect_prompt(p, "> ");
    type(p, "thrown away\003");
    expect_prompt(p, "\r\n> ");
    type(p, "/save ");
    type(p, p->folder);
    type(p, "/talk.json\n");
    expect(p, "2 messages written");
    type(p, "/exit\n");
    expect_exit(p, 0);
}

/* Sends a message that takes long to be read and stops that. */
static void stop_reading(struct person *p, const char *text)
{
    struct termios t;
    type(p, text);
    type(p, "\n");
    while (!tcgetattr(p->fd, &t) && !(t.c_lflag & ICANON)) /* the editor is at work still */
        take(p, 5);
    for (int64_t end = now_ms() + 150; now_ms() < end;)
        take(p, 10);
    type(p, "\003");
    expect(p, "stopped while reading the prompt");
}

static void ctrl_c_keeps_what_was_read(void **state)
{
    struct person *p = *state;
    char text[3600];
    int kept[3], n = 0;
    for (size_t i = 0; i + 3 < sizeof text; i += 3)
        memcpy(text + i, i / 3 % 7 ? "xq " : "zj ", 4);
    expect_prompt(p, "> ");
    for (int i = 0; i < 3; i++) {
        stop_reading(p, text);
        type(p, "/stats\n");
        expect(p, "last prompt ");
        expect(p, " tokens: ");
        while (!memchr(p->seen + p->from, 'k', p->n - p->from))
            take(p, 50);
        kept[i] = atoi(p->seen + p->from);
        n += i && kept[i] > kept[i - 1];
        expect_prompt(p, "> ");
        if (i == 1) { /* another message in between */
            type(p, "Who are you?\n");
            expect(p, "I am Tiny");
            expect_prompt(p, "> ");
            type(p, "/undo\n");
            expect_prompt(p, "> ");
        }
    }
    if (n != 2)
        fail_msg("kept %d, %d and %d tokens", kept[0], kept[1], kept[2]);
    type(p, "/exit\n");
    expect_exit(p, 0);
}

static void several_lines(void **state)
{
    struct person *p = *state;
    char line[160], path[128], text[4096] = "";
    expect_prompt(p, "> ");
    type(p, "one \\\n");
    expect_prompt(p, ". ");
    type(p, "two\n");
    expect(p, " written, ");
    expect_prompt(p, "> ");
    type(p, "\"\"\"\n");
    expect_prompt(p, ". ");
    type(p, "three\n");
    expect_prompt(p, ". ");
    type(p, "\n");
    expect_prompt(p, ". ");
    type(p, "four\n");
    expect_prompt(p, ". ");
    type(p, "\"\"\"\n");
    expect(p, " written, ");
    expect_prompt(p, "> ");
    snprintf(path, sizeof path, "%s/talk.json", p->folder);
    snprintf(line, sizeof line, "/save %s\n", path);
    type(p, line);
    expect(p, "4 messages written");
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_true(fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    assert_non_null(strstr(text, "\"content\": \"one \\ntwo\""));
    assert_non_null(strstr(text, "\"content\": \"three\\n\\nfour\""));
}

static void history(void **state)
{
    struct person *p = *state;
    char path[128];
    struct stat st;
    expect_prompt(p, "> ");
    type(p, "Who are you?\n");
    expect(p, "I am Tiny");
    expect_prompt(p, "> ");
    type(p, "\033[A"); /* the arrow brings it back */
    expect(p, "Who are you?");
    type(p, "\n");
    expect(p, " written, ");
    expect_prompt(p, "> ");
    snprintf(path, sizeof path, "%s/quern/history", p->folder);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void thinking_is_set_apart(void **state)
{
    struct person *p = *state;
    expect_prompt(p, "> ");
    type(p, "Who are you?\n");
    expect(p, " written, ");
    if (strstr(p->seen, "<think>") || strstr(p->seen, "</think>"))
        fail_msg("tags on the screen: %s", p->seen);
    expect_prompt(p, "> ");
    type(p, "/think off\n");
    expect(p, "thinking off");
    type(p, "Who are you?\n");
    expect(p, "I am Tiny");
}

static void again(void **state)
{
    struct person *p = *state;
    expect_prompt(p, "> ");
    type(p, "/regen\n");
    expect(p, "no answer to make again");
    type(p, "Who are you?\n");
    expect(p, "I am Tiny");
    expect_prompt(p, "> ");
    type(p, "/regen\n");
    expect(p, "I am Tiny");
    expect_prompt(p, "> ");
    type(p, "/system Be kind.\n");
    expect(p, "system message set");
    type(p, "/clear\n");
    expect(p, "new conversation");
    type(p, "/load /nowhere/x.json\n");
    expect(p, "/nowhere/x.json: No such file");
    type(p, "/save /nowhere/x.json\n");
    expect(p, "/nowhere/x.json: No such file");
    type(p, "/help\n");
    expect(p, "/regen ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"chat/talk", talk, setup_plain, teardown, NULL},
        {"chat/ends_at_ctrl_d", ends_at_ctrl_d, setup_plain, teardown, NULL},
        {"chat/ctrl_c_stops_the_answer", ctrl_c_stops_the_answer, setup_long, teardown, NULL},
        {"chat/ctrl_c_keeps_what_was_read", ctrl_c_keeps_what_was_read, setup_slow, teardown, NULL},
        {"chat/several_lines", several_lines, setup_plain, teardown, NULL},
        {"chat/history", history, setup_plain, teardown, NULL},
        {"chat/thinking_is_set_apart", thinking_is_set_apart, setup_thinking, teardown, NULL},
        {"chat/again", again, setup_plain, teardown, NULL},
    };
    return cmocka_run_group_tests_name("chat", tests, NULL, NULL);
}
