/* SPDX-License-Identifier: MIT */
/* The cache folder of several processes: this program again.  Whatever is killed when, what had been written is there and right; and
 * many at a time keep the budget. */
#include "eval.h"
#include "folder.h"
#include "hashmodel.h"
#include "src/run.h"
#include "testing.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_CTX = 800, N_PATHS = 64 };

static const char *hybrid(void) { return hash_model_file("qwen35", "Q8_0"); }

/* Prompts that share beginnings. */
static int child_path(int i, int32_t *ids)
{
    int n = 150 + 37 * (i % 5), shared = i % 3 * 70;
    eval_ids(70, shared, ids);
    eval_ids(71 + (uint64_t)i, n + 1 - shared, ids + shared);
    return n;
}

/* Memory for two snapshots, so that most of what is written is written in between. */
static struct qn_options tight_options(const char *model, const char *folder)
{
    struct qn_options o = folder_options(model, N_CTX, folder);
    qn_engine *e = eval_open(&o);
    o.cache_ram = 2 * (e->slot_bytes + 3 * e->page_bytes) + 16384;
    qn_close(e);
    return o;
}

/* Computes and keeps paths, and says which ones must be there: those of an engine that was closed. */
static int saving_child(const char *model, const char *folder)
{
    struct qn_options o = tight_options(model, folder);
    for (int done = 0; done < N_PATHS; done += 4) {
        int32_t ids[N_CTX];
        qn_engine *e = eval_open(&o);
        qn_seq *s = eval_seq(e);
        char said[4];
        for (int i = 0; i < 4; i++) {
            int n = child_path(done + i, ids), k = qn_seq_resume(s, ids, n, NULL);
            eval_append(s, ids + k, n - k, NULL);
            if (!qn_seq_keep(s))
                return 1;
            said[i] = (char)(done + i);
        }
        qn_seq_free(s);
        qn_close(e);
        if (write(STDOUT_FILENO, said, sizeof said) != sizeof said)
            return 1;
    }
    pause();
    return 1;
}

/* Comes back to paths at random, in one engine after another, and goes on with the right bits. */
static int working_child(const char *model, const char *folder, const char *seed)
{
    static int32_t ids[8][N_CTX];
    static uint64_t want[8][N_CTX], got[N_CTX];
    struct qn_options o = tight_options(model, folder);
    uint64_t random = strtoull(seed, NULL, 10);
    int n[8];
    for (int i = 0; i < 8; i++) {
        n[i] = child_path(i, ids[i]);
        eval_plain_rows(&o, ids[i], n[i], want[i]);
    }
    o.cache_disk = o.cache_ram * 3;
    qn_engine *e = NULL;
    qn_seq *s = NULL;
    for (int op = 0; op < (test_quick() ? 40 : 200); op++) {
        if (op % 9 == 0) {
            qn_seq_free(s);
            qn_close(e);
            s = eval_seq(e = eval_open(&o));
        }
        random = hash_splitmix64(random);
        int p = (int)(random % 8), end = 1 + (int)(random / 8 % (uint64_t)n[p]),
            k = qn_seq_resume(s, ids[p], end, NULL);
        eval_rows(s, ids[p] + k, end - k, got);
        if (memcmp(got, want[p] + k, (size_t)(end - k) * sizeof *got) != 0) {
            fprintf(stderr, "path %d, %d kept of %d: other bits\n", p, k, end);
            return 1;
        }
        qn_seq_keep(s);
    }
    qn_seq_free(s);
    qn_close(e);
    return folder_warnings;
}

static pid_t start(const char *what, const char *model, const char *folder, const char *more, int *out)
{
    int fd[2];
    assert_int_equal(pipe(fd), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fd[1], STDOUT_FILENO);
        close(fd[0]);
        close(fd[1]);
        execl("/proc/self/exe", "check_disk_processes", what, model, folder, more, (char *)NULL);
        _exit(127);
    }
    close(fd[1]);
    *out = fd[0];
    return pid;
}

/* Whatever is killed when: what an engine had closed over is there, nothing half-written is, and the rest is right. */
static void test_kills(void **state)
{
    (void)state;
    static uint64_t row[N_PATHS]; /* behind each path; 0: not known yet */
    int n_kills = test_quick() ? 4 : getenv("QUERN_LONG") ? 200 : 20, n_saved = 0, n_early = 0;
    const char *folder = test_tmp_folder("killed");
    struct qn_options o = folder_options(hybrid(), N_CTX, folder), plain = o;
    plain.cache_ram = 0;
    plain.cache_dir = NULL;
    qn_engine *without = eval_open(&plain);
    for (int i = 0; i < n_kills; i++) {
        int out, status;
        char said[N_PATHS];
        pid_t pid = start("save", hybrid(), folder, "", &out);
        ssize_t n_said = i % 2 ? read(out, said, 1) : 0; /* every other time something is there by then */
        usleep((useconds_t)(hash_splitmix64((uint64_t)i) % 150000));
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        if (!WIFSIGNALED(status))
            fail_msg("the child ended by itself with status %x", (unsigned)status);
        ssize_t more = read(out, said + n_said, sizeof said - (size_t)n_said);
        n_said += more > 0 ? more : 0;
        close(out);
        qn_engine *e = eval_open(&o);
        qn_seq *s = eval_seq(e);
        for (int p = 0; p < N_PATHS; p++) {
            int32_t ids[N_CTX];
            uint64_t got;
            int n = child_path(p, ids), k = qn_seq_resume(s, ids, n + 1, NULL);
            if (memchr(said, p, (size_t)n_said) && k != n)
                fail_msg("kill %d: path %d was saved and is not there", i, p);
            if (k != n)
                continue;
            if (!row[p]) {
                qn_seq *x = eval_seq(without);
                eval_append(x, ids, n, NULL);
                eval_rows(x, ids + n, 1, &row[p]);
                qn_seq_free(x);
            }
            eval_rows(s, ids + n, 1, &got);
            assert_true(got == row[p]);
            n_saved++;
        }
        n_early += n_said == 0;
        qn_seq_free(s);
        qn_close(e);
        assert_int_equal(folder_look(folder).n_others, 0);
        test_tmp_folder("killed");
    }
    qn_close(without);
    print_message("%d kills, %d before anything was closed; %d places came back\n", n_kills, n_early, n_saved);
    assert_true(n_saved > n_kills);
    assert_int_equal(folder_warnings, 0);
}

/* The bytes of a folder while nobody changes it. */
static size_t locked_bytes(const char *folder)
{
    int fd = open(folder_path(folder, "lock"), O_RDWR);
    if (fd < 0)
        return 0;
    flock(fd, LOCK_EX);
    size_t bytes = folder_look(folder).bytes;
    close(fd);
    return bytes;
}

/* Three processes with two models in one folder that has too little room for any of them. */
static void test_processes(void **state)
{
    (void)state;
    const char *folder = test_tmp_folder("shared"),
               *models[] = {hybrid(), hybrid(), hash_model_file("qwen35moe", "Q8_0")};
    static const char *const seeds[] = {"1", "2", "3"};
    size_t budget = 0;
    int out[3], running = 3, n_looks = 0;
    pid_t pid[3];
    for (int i = 0; i < 3; i++) {
        size_t own = tight_options(models[i], NULL).cache_ram * 3;
        budget = own > budget ? own : budget;
        pid[i] = start("work", models[i], folder, seeds[i], &out[i]);
    }
    for (; running; n_looks++) {
        size_t bytes = locked_bytes(folder);
        if (bytes > budget)
            fail_msg("%zu bytes, allowed are %zu", bytes, budget);
        usleep(2000);
        for (int i = 0; i < 3; i++) {
            int status;
            if (pid[i] == 0 || waitpid(pid[i], &status, WNOHANG) == 0)
                continue;
            if (status != 0)
                fail_msg("process %d ended with status %x", i, (unsigned)status);
            close(out[i]);
            pid[i] = 0;
            running--;
        }
    }
    struct folder_content c = folder_look(folder);
    print_message("%d looks; %d segments, %d snapshots left\n", n_looks, c.n_segments, c.n_snapshots);
    assert_true(c.n_segments > 0 && c.n_others == 0);
    test_tmp_folder("shared");
}

int main(int argc, char **argv)
{
    if (argc == 5 && !strcmp(argv[1], "save"))
        return saving_child(argv[2], argv[3]);
    if (argc == 5 && !strcmp(argv[1], "work"))
        return working_child(argv[2], argv[3], argv[4]);
    const struct CMUnitTest tests[] = {
        {"disk/kills", test_kills, NULL, NULL, NULL},
        {"disk/processes", test_processes, NULL, NULL, NULL},
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("disk_processes", tests, NULL, NULL);
}
