"""Image captions, as its users write them: a CNN, attention, an LSTMCell with teacher forcing, a search by beams."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence


class Encoder(nn.Module):
    def __init__(self, encoded_image_size=3):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2),
            nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.adaptive_pool = nn.AdaptiveAvgPool2d((encoded_image_size, encoded_image_size))
        self.fine_tune()

    def forward(self, images):
        return self.adaptive_pool(self.cnn(images)).permute(0, 2, 3, 1)  # (batch, size, size, channels)

    def fine_tune(self, fine_tune=True):
        for p in self.cnn.parameters():
            p.requires_grad = False
        for c in list(self.cnn.children())[1:]:
            for p in c.parameters():
                p.requires_grad = fine_tune


class Attention(nn.Module):
    def __init__(self, encoder_dim, decoder_dim, attention_dim):
        super().__init__()
        self.encoder_att, self.decoder_att = (
            nn.Linear(encoder_dim, attention_dim),
            nn.Linear(decoder_dim, attention_dim),
        )
        self.full_att, self.relu, self.softmax = nn.Linear(attention_dim, 1), nn.ReLU(), nn.Softmax(dim=1)

    def forward(self, encoder_out, decoder_hidden):
        att1, att2 = self.encoder_att(encoder_out), self.decoder_att(decoder_hidden)
        alpha = self.softmax(self.full_att(self.relu(att1 + att2.unsqueeze(1))).squeeze(2))
        return (encoder_out * alpha.unsqueeze(2)).sum(dim=1), alpha


class Captions(nn.Module):
    def __init__(self, vocab_size=9, dim=6, encoder_dim=8):
        super().__init__()
        self.vocab_size, self.encoder = vocab_size, Encoder()
        self.attention = Attention(encoder_dim, dim, 5)
        self.embedding, self.dropout = nn.Embedding(vocab_size, dim), nn.Dropout(p=0.0)
        self.decode_step = nn.LSTMCell(dim + encoder_dim, dim, bias=True)
        self.init_h, self.init_c = nn.Linear(encoder_dim, dim), nn.Linear(encoder_dim, dim)
        self.f_beta, self.sigmoid, self.fc = nn.Linear(dim, encoder_dim), nn.Sigmoid(), nn.Linear(dim, vocab_size)
        self.init_weights()

    def init_weights(self):
        self.embedding.weight.data.uniform_(-0.1, 0.1)
        self.fc.bias.data.fill_(0)
        self.fc.weight.data.uniform_(-0.1, 0.1)

    def begin(self, encoder_out):
        mean = encoder_out.mean(dim=1)
        return self.init_h(mean), self.init_c(mean)

    def forward(self, images, captions, lengths):
        encoder_out = self.encoder(images)
        batch_size, encoder_dim = encoder_out.size(0), encoder_out.size(-1)
        encoder_out = encoder_out.reshape(batch_size, -1, encoder_dim)
        lengths, order = lengths.squeeze(1).sort(dim=0, descending=True)
        encoder_out, captions = encoder_out[order], captions[order]
        embeddings, (h, c) = self.embedding(captions), self.begin(encoder_out)
        decode_lengths = (lengths - 1).tolist()
        predictions = torch.zeros(batch_size, max(decode_lengths), self.vocab_size).to(images.device)
        alphas = torch.zeros(batch_size, max(decode_lengths), encoder_out.size(1)).to(images.device)
        for t in range(max(decode_lengths)):
            n = sum(length > t for length in decode_lengths)
            awe, alpha = self.attention(encoder_out[:n], h[:n])
            awe = self.sigmoid(self.f_beta(h[:n])) * awe
            h, c = self.decode_step(torch.cat([embeddings[:n, t, :], awe], dim=1), (h[:n], c[:n]))
            predictions[:n, t, :] = self.fc(self.dropout(h))
            alphas[:n, t, :] = alpha
        scores = pack_padded_sequence(predictions, decode_lengths, batch_first=True).data
        targets = pack_padded_sequence(captions[:, 1:], decode_lengths, batch_first=True).data
        loss = nn.CrossEntropyLoss()(scores, targets)
        loss += 1.0 * ((1.0 - alphas.sum(dim=1)) ** 2).mean()
        return predictions, loss

    @torch.no_grad()
    def search(self, image, k=3, start=0, end=1, steps=6):
        encoder_out = self.encoder(image.unsqueeze(0)).view(1, -1, self.attention.encoder_att.in_features)
        encoder_out = encoder_out.expand(k, encoder_out.size(1), encoder_out.size(2))
        words = torch.LongTensor([[start]] * k)
        sequences, top_scores = words, torch.zeros(k, 1).to(image.dtype)
        complete, complete_scores = [], []
        h, c = self.begin(encoder_out)
        for step in range(1, steps + 1):
            embeddings = self.embedding(words).squeeze(1)
            awe, _ = self.attention(encoder_out, h)
            h, c = self.decode_step(torch.cat([embeddings, torch.sigmoid(self.f_beta(h)) * awe], dim=1), (h, c))
            scores = nn.functional.log_softmax(self.fc(h), dim=1)
            scores = top_scores.expand_as(scores) + scores
            top_scores, top = scores[0].topk(k, 0, True, True) if step == 1 else scores.view(-1).topk(k, 0, True, True)
            before, following = torch.div(top, self.vocab_size, rounding_mode="floor"), top % self.vocab_size
            sequences = torch.cat([sequences[before], following.unsqueeze(1)], dim=1)
            ongoing = [i for i, word in enumerate(following) if word != end]
            finished = list(set(range(len(following))) - set(ongoing))
            if len(finished) > 0:
                complete.extend(sequences[finished].tolist())
                complete_scores.extend(top_scores[finished])
            k -= len(finished)
            if k == 0:
                break
            sequences, h, c = sequences[ongoing], h[before[ongoing]], c[before[ongoing]]
            encoder_out, top_scores = encoder_out[before[ongoing]], top_scores[ongoing].unsqueeze(1)
            words = following[ongoing].unsqueeze(1)
        if k > 0:
            complete.extend(sequences.tolist())
            complete_scores.extend(top_scores.squeeze(1))
        return complete[complete_scores.index(max(complete_scores))], complete


def make():
    return Captions()


def inputs():
    images = torch.cos(torch.arange(3 * 3 * 64, dtype=torch.get_default_dtype()) * 0.7).view(3, 3, 8, 8)
    captions = torch.tensor([[0, 4, 5, 1, 8, 8], [0, 2, 3, 6, 7, 1], [0, 7, 2, 5, 1, 8]])
    return images, captions, torch.tensor([[4], [6], [5]])


def predict(model, images, captions, lengths):
    model.eval()
    found = [model.search(image) for image in images]
    return [word for best, others in found for words in [best, *others] for word in [*words, -1]]
